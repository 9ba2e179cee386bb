//! Opening connections to servers, and the socket options of both sides.

use crate::config::{Host, Tcp};
use crate::net::socket::{Address, Socket};
use crate::net::unix;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use tokio::net::{TcpStream, UnixStream};

/// Connects to `host`. A name is looked up each time, and its addresses are tried in order.
///
/// # Errors
/// That of the last address tried.
pub async fn connect(host: &Host, port: u16, options: &Tcp) -> io::Result<Socket> {
    match host {
        Host::Tcp(name) => {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            prepare_tcp(&stream, options)?;
            Ok(stream.into())
        }
        Host::Unix(directory) => {
            let path = unix::socket_path(directory, port);
            UnixStream::connect(unix::for_system(&path)).await.and_then(Socket::try_from)
        }
    }
}

/// Connects to the very address that another stream is connected to.
///
/// # Errors
/// The socket's.
pub async fn connect_to(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => TcpStream::connect(address).await.map(Socket::from),
        Address::Unix(path) => UnixStream::connect(unix::for_system(path)).await.and_then(Socket::try_from),
    }
}

/// Sets what every TCP connection has: no delay, and keepalive as configured.
///
/// # Errors
/// The socket's.
pub fn prepare_tcp<'s, S>(stream: &'s S, options: &Tcp) -> io::Result<()>
where
    SockRef<'s>: From<&'s S>,
{
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = options.socket_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
        socket.set_send_buffer_size(bytes as usize)?;
    }
    socket.set_keepalive(options.keepalive)?;
    if options.keepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = options.keepidle {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = options.keepintvl {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = options.keepcnt {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    Ok(())
}
