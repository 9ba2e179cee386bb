//! Two plays of a conversation next to each other, and the shortest conversation that still tells them apart.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::play::{Entry, Transcript};
use super::script::{Action, Cuts, Script, Setup, clip};

/// Where two plays differ, shown; `None` if they do not.
pub fn difference(truth: &[Transcript], other: &[Transcript]) -> Option<String> {
    let mut shown = String::new();
    for (client, (left, right)) in truth.iter().zip(other).enumerate() {
        if left != right && !are_alike(left, right) {
            let _ = writeln!(shown, "--- client {client}\n{}", side_by_side(left, right));
        }
    }
    (!shown.is_empty()).then_some(shown)
}

/// Whether the transcripts are the same but for this: in a failed transaction a server that lacks the statement of a Bind or
/// Describe cannot prepare it, and the message fails for that instead of succeeding or failing for a reason of its own.
fn are_alike(mut left: &[Entry], mut right: &[Entry]) -> bool {
    let mut status = None;
    while let (Some(one), Some(other)) = (left.first(), right.first()) {
        if one != other {
            let refused = right.iter().take_while(|entry| ready(entry).is_none()).any(|entry| {
                matches!(entry, Entry::Received(message) if message.sqlstate().as_deref() == Some("25P02"))
            });
            if !refused || status != Some('E') {
                return false;
            }
            // On to the end of the failed transaction.
            (left, right) = (behind_failure(left), behind_failure(right));
            continue;
        }
        status = ready(one).or(status);
        (left, right) = (&left[1..], &right[1..]);
    }
    left.is_empty() && right.is_empty()
}

/// From the ReadyForQuery on that ends the failed transaction.
fn behind_failure(transcript: &[Entry]) -> &[Entry] {
    let end = |entry: &Entry| ready(entry).is_some_and(|status| status != 'E');
    &transcript[transcript.iter().position(end).unwrap_or(transcript.len())..]
}

fn ready(entry: &Entry) -> Option<char> {
    match entry {
        Entry::Received(message) => message.ready(),
        _ => None,
    }
}

/// Why a play of PostgreSQL itself proves nothing, if so.
pub fn flaw(truth: &[Transcript]) -> Option<String> {
    let odd = |entry: &&Entry| matches!(entry, Entry::Ended | Entry::Failed(_));
    let (client, transcript) =
        truth.iter().enumerate().find(|(_, transcript)| transcript.iter().any(|entry| odd(&entry)))?;
    let at = transcript.iter().position(|entry| odd(&entry)).unwrap_or(0);
    let end = (at + 1).min(transcript.len().saturating_sub(1));
    Some(format!("client {client}: {:#?}", &transcript[at.saturating_sub(20)..=end]))
}

fn side_by_side(left: &[Entry], right: &[Entry]) -> String {
    const WIDTH: usize = 76;
    let first = left.iter().zip(right).position(|(one, other)| one != other);
    let first = first.unwrap_or(left.len().min(right.len()));
    let from = first.saturating_sub(40);
    let to = (first + 6).min(left.len().max(right.len()));
    let mut shown = String::new();
    for at in from..to {
        let show = |side: &[Entry]| side.get(at).map_or_else(String::new, words);
        let (one, other) = (show(left), show(right));
        if one == other {
            let _ = writeln!(shown, "   {}", clip(&one, 2 * WIDTH));
        } else {
            let _ = writeln!(shown, ">> PostgreSQL: {one}\n>> pgvalet:    {other}");
        }
    }
    shown
}

fn words(entry: &Entry) -> String {
    match entry {
        Entry::Opened => "(opened)".into(),
        Entry::Sent(what) => format!("-> {what}"),
        Entry::Received(message) => format!("     {message:?}"),
        Entry::Left => "(left)".into(),
        Entry::Ended => "(the connection ended)".into(),
        Entry::Failed(what) => format!("(failed: {what})"),
    }
}

/// Takes away from the script whatever is not needed for `differs` to hold, until `limit` has passed.
pub fn shrink(script: &Script, limit: Duration, mut differs: impl FnMut(&Script) -> bool) -> Script {
    let end = Instant::now() + limit;
    let mut best = script.clone();
    loop {
        let before = best.clone();
        for candidate_of in [without_clients, without_steps, without_messages, simpler] {
            let mut number = 0;
            while let Some(candidate) = candidate_of(&best, number) {
                if Instant::now() > end {
                    return best;
                }
                if candidate != best && differs(&candidate) {
                    best = candidate;
                } else {
                    number += 1;
                }
            }
        }
        if best == before {
            return best;
        }
    }
}

fn without_clients(script: &Script, number: usize) -> Option<Script> {
    (number < script.clients).then(|| {
        let mut less = script.clone();
        less.steps.retain(|step| step.client != number);
        less
    })
}

/// Without a half, a quarter ... of the steps, or one.
fn without_steps(script: &Script, number: usize) -> Option<Script> {
    without_part(script.steps.len(), number).map(|part| {
        let mut less = script.clone();
        less.steps.drain(part);
        less
    })
}

fn without_messages(script: &Script, number: usize) -> Option<Script> {
    let total = script.steps.iter().map(|step| messages(&step.action)).sum();
    without_part(total, number).map(|part| {
        let mut less = script.clone();
        let mut at = 0;
        for step in &mut less.steps {
            if let Action::Send(messages) = &mut step.action {
                messages.retain(|_| {
                    at += 1;
                    !part.contains(&(at - 1))
                });
            }
        }
        less.steps.retain(|step| step.action != Action::Send(Vec::new()));
        less
    })
}

fn messages(action: &Action) -> usize {
    match action {
        Action::Send(messages) => messages.len(),
        Action::Leave(_) => 0,
    }
}

/// The parts of a list that are tried: from halves down to single items.
fn without_part(length: usize, number: usize) -> Option<std::ops::Range<usize>> {
    let mut size = length.div_ceil(2);
    let mut number = number;
    while size > 0 {
        let count = length.div_ceil(size);
        if number < count {
            let start = number * size;
            return Some(start..(start + size).min(length));
        }
        number -= count;
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    None
}

/// The same steps, said in a plainer way.
fn simpler(script: &Script, number: usize) -> Option<Script> {
    let mut plain = script.clone();
    let steps = plain.steps.len();
    match number {
        0 => plain.steps.iter_mut().for_each(|step| step.cuts = Cuts::Whole),
        1 => plain.steps.iter_mut().for_each(|step| step.eager = false),
        2 => plain.setup = Setup { workers: 1, ..plain.setup },
        3 => plain.setup = Setup { max_prepared_statements: 200, ..plain.setup },
        4 => plain.setup = Setup { reset: "auto", ..plain.setup },
        5 => plain.setup = Setup { pool_size: 1, ..plain.setup },
        6 => plain.setup = Setup { pool_size: 2, ..plain.setup },
        _ => {
            let step = number - 7;
            if step >= 2 * steps {
                return None;
            }
            let which = &mut plain.steps[step / 2];
            if step.is_multiple_of(2) { which.cuts = Cuts::Whole } else { which.eager = false }
        }
    }
    Some(plain)
}
