//! `unifaas relay`: connects standard input and output to a TCP address.
//!
//! QEMU starts it for each connection of a guest in a restricted user-mode network to the callback address. Such a network
//! has no other way out.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd,
    thread,
};

/// Copies bytes both ways until both directions have ended.
pub fn run(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(address)?;
    let mut answers = stream.try_clone()?;
    let back = thread::spawn(move || {
        let mut output = raw(io::stdout().as_fd())?;
        pump(&mut answers, &mut output)
    });
    let mut requests = stream.try_clone()?;
    pump(&mut raw(io::stdin().as_fd())?, &mut requests)?;
    let _ = stream.shutdown(Shutdown::Write);
    back.join().unwrap_or(Ok(()))
}

/// Returns an unbuffered file: the standard library's buffer would delay data that the peer waits for.
fn raw(descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<std::fs::File> {
    Ok(descriptor.try_clone_to_owned()?.into())
}

fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = [0; 8192];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            count => to.write_all(&chunk[..count])?,
        }
    }
}
