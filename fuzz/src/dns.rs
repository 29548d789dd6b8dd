//! A DNS message: the first byte says over what it came and from whom.

use std::cell::LazyCell;
use std::net::{Ipv4Addr, SocketAddr};

use io_adapters::dns::Wire;
use tokio::runtime::{Builder, Runtime};

use crate::routes;

const SERVICES: &str = "service shop/web 10.0.0.1 10.0.0.2 fd00::1
service shop/halted 10.0.0.9
stop shop/halted
service blog/web 10.0.1.1
service blog/many 10.0.2.1 10.0.2.2 10.0.2.3 10.0.2.4 10.0.2.5 10.0.2.6 10.0.2.7 10.0.2.8 10.0.2.9 10.0.2.10 10.0.2.11 10.0.2.12";

/// The largest answer over UDP to somebody who does not say that they take more, and to somebody who does.
const PLAIN: usize = 512;
const EXTENDED: usize = 1232;

thread_local! {
    static SERVER: LazyCell<(Wire, Runtime)> = const { LazyCell::new(|| {
        let runtime = Builder::new_current_thread().build().expect("a runtime without I/O");
        (Wire::new(&routes::of_lines(SERVICES)), runtime)
    }) };
}

/// Asks the server.
pub fn run(data: &[u8]) {
    let Some((first, message)) = data.split_first() else { return };
    let udp = first & 1 == 0;
    let callers = [[10, 0, 0, 1], [10, 0, 1, 1], [192, 0, 2, 1], [127, 0, 0, 1]];
    let caller = Ipv4Addr::from(callers[usize::from(first >> 1) % callers.len()]);
    let from = SocketAddr::new(caller.into(), 40_000);
    let answer = SERVER.with(|server| server.1.block_on(server.0.answer(message, from, udp)));
    let Some(answer) = answer else { return };
    assert_eq!(answer[..2], message[..2], "its id");
    assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "it is an answer: {answer:?}");
    let extended = message.windows(3).any(|bytes| bytes == [0, 0, 41]);
    let most = if !udp {
        usize::from(u16::MAX)
    } else if extended {
        EXTENDED
    } else {
        PLAIN
    };
    assert!(answer.len() <= most, "{} bytes where {most} are taken", answer.len());
    // One question comes back as it was asked, for somebody who compares.
    if message[4..6] == [0, 1] && answer[4..6] == [0, 1] {
        assert_eq!(name(&answer), name(message), "its question");
    }
}

/// The name of the first question, byte by byte: labels up to an empty one, or to a pointer elsewhere.
fn name(message: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return message.get(12..=at),
            0xc0.. => return message.get(12..at + 2),
            _ => at += 1 + usize::from(length),
        }
    }
}
