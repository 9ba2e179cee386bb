//! How the process ends: when all clients have left, when transactions have, or when another process has taken over.

use crate::admin::command::Shutdown;
use crate::alarm::{sleep, sleep_until};
use crate::client::context::Process;
use crate::runtime::reach::Request;
use crate::runtime::supervisor::{Asked, Ears, Running, Teller, serve};
use crate::runtime::upgrade::{Heard, Side};
use crate::runtime::worker::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// How often it is looked whether everybody has left.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until every client has left by itself, or until it is told again to end.
pub(super) async fn wait_for_clients(running: &mut Running, ears: &mut Ears) {
    let clients = running.process.clients.load(Ordering::Relaxed);
    tracing::info!(
        clients,
        "shutting down: waiting for all clients to leave; told to end otherwise, it does"
    );
    let left = everybody_left(running.process.clone());
    tokio::pin!(left);
    loop {
        tokio::select! {
            () = &mut left => return tracing::info!("all clients have left"),
            asked = serve(running, ears) => match asked {
                // That is what it does.
                Asked::Wait(Teller::Console) => {}
                Asked::Drain if !running.config.is_ini() => return drain(running, ears).await,
                Asked::Drain | Asked::Stop | Asked::Replaced | Asked::Wait(Teller::Signal) => return,
            }
        }
    }
}

/// Waits until every client has come to the end of its transaction, or time is up, or a second signal comes.
pub(super) async fn drain(running: &Running, ears: &mut Ears) {
    let Ears { signals, requests, heard } = ears;
    let clients = running.process.clients.load(Ordering::Relaxed);
    let limit = running.config.general.shutdown_timeout;
    tracing::info!(clients, "shutting down: transactions may finish; a second signal ends them at once");
    for worker in &running.workers {
        let _ = worker.commands.send(Command::Drain);
    }
    let deadline = limit.map(|limit| Instant::now() + limit);
    let overtime = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = everybody_left(running.process.clone()) => tracing::info!("all clients have left"),
        () = overtime => tracing::warn!("shutdown_timeout: the transactions that still run are ended"),
        _ = signals.terminate.recv() => tracing::warn!("second signal: the transactions that still run are ended"),
        _ = signals.interrupt.recv() => tracing::warn!("second signal: the transactions that still run are ended"),
        _ = signals.quit.recv() => tracing::warn!("told to end at once"),
        () = attend(running, requests, heard) => tracing::warn!("told to end at once"),
    }
}

/// Answers whoever asks something of a process that ends, until somebody at the console ends it at once.
async fn attend(
    running: &Running,
    requests: &mut UnboundedReceiver<Request>,
    heard: &mut UnboundedReceiver<Heard>,
) {
    loop {
        tokio::select! {
            Some(request) = requests.recv() => {
                if refuse(request, "pgvalet is shutting down") == Some(Shutdown::Now) {
                    return;
                }
            }
            Some(heard) = heard.recv() => running.hear_of_others(heard),
        }
    }
}

/// Refuses what cannot be done any more; how the process is to end, if that is what was asked.
fn refuse(request: Request, reason: &str) -> Option<Shutdown> {
    match request {
        Request::ShutDown(how) => return Some(how),
        Request::Upgrade(answer) | Request::Reload(answer) => drop(answer.send(Err(reason.into()))),
        Request::Set { answer, .. } => drop(answer.send(Err(reason.into()))),
    }
    None
}

/// Ends when only consoles are left: who sits there holds nothing up.
async fn everybody_left(process: Arc<Process>) {
    while has_clients(&process) {
        sleep(LOOK).await;
    }
}

fn has_clients(process: &Process) -> bool {
    process.clients.load(Ordering::Relaxed) > process.census.consoles()
}

/// Waits, replaced by another process, for the clients that could not go there. How to end; `None` if that process is gone and
/// this one serves again.
pub(super) async fn depart(running: &mut Running, ears: &mut Ears) -> Option<Asked> {
    let limit = running.config.general.upgrade_timeout;
    let overtime = async {
        match limit {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let (process, links) = (running.process.clone(), running.upgrade.links.clone());
    let left = async {
        loop {
            everybody_left(process.clone()).await;
            // On their way, or back here: then they are clients again.
            if let Some(link) = links.get(Side::Successor) {
                let _ = link.flush().await;
                sleep(LOOK).await;
            }
            if has_clients(&process) {
                continue;
            }
            // Who cancels what runs in a still older process comes through this one.
            if links.get(Side::Predecessor).is_none() {
                return;
            }
            sleep(LOOK).await;
        }
    };
    tokio::pin!(overtime, left);
    loop {
        let Ears { signals, requests, heard } = ears;
        tokio::select! {
            () = &mut left => return Some(Asked::Stop),
            () = &mut overtime => {
                tracing::warn!("upgrade_timeout: the clients that could not go to the new process are ended");
                return Some(Asked::Drain);
            }
            _ = signals.terminate.recv() => return Some(Asked::Drain),
            _ = signals.interrupt.recv() => return Some(Asked::Drain),
            _ = signals.quit.recv() => return Some(Asked::Stop),
            _ = signals.hangup.recv() => tracing::warn!("another process has taken over: reload that one"),
            _ = signals.pause.recv() => {}
            _ = signals.resume.recv() => {}
            Some(request) = requests.recv() => {
                match refuse(request, "another process has taken over: connect again to reach it") {
                    None => {}
                    Some(Shutdown::Now) => return Some(Asked::Stop),
                    Some(_) => return Some(Asked::Drain),
                }
            }
            Some(heard) = heard.recv() => {
                if running.is_alone_again(&heard) {
                    return running.resume().await.map(|reason| {
                        tracing::error!(reason, "the process cannot go on");
                        Asked::Drain
                    });
                }
                running.hear_of_others(heard);
            }
        }
    }
}

pub(super) fn stop(running: Running) {
    running.upgrade.say_farewell();
    for worker in &running.workers {
        let _ = worker.commands.send(Command::Stop);
    }
    for thread in running.threads {
        if thread.join().is_err() {
            tracing::error!("a worker had panicked");
        }
    }
    tracing::info!("ended");
}
