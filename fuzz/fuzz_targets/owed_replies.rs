//! Any order of messages sent and replies received: the queue never panics, never loses count, and is at rest only when
//! nothing is outstanding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::server::owed::{Naming, Owed, OwedQueue, Purpose, ShapeOf};

fn naming(byte: u8) -> Box<Naming> {
    Box::new(Naming {
        name: [byte & 3].into(),
        previous: None,
        prepares: (byte & 4 != 0).then_some(u64::from(byte)),
    })
}

fuzz_target!(|input: &[u8]| {
    let mut queue = OwedQueue::default();
    for pair in input.chunks_exact(2) {
        let detail = pair[1];
        match pair[0] % 26 {
            0 => drop(queue.push(Owed::Query(None))),
            1 => drop(queue.push(Owed::Sync)),
            2 => drop(queue.push(Owed::FunctionCall)),
            3 => drop(queue.push(Owed::Parse(naming(detail)))),
            4 => drop(queue.push(Owed::Prepare(u64::from(detail)))),
            5 => drop(queue.push(Owed::Bind)),
            6 => drop(queue.push(Owed::DescribeStatement)),
            7 => drop(queue.push(Owed::DescribePortal)),
            8 => drop(queue.push(Owed::Execute)),
            9 => drop(queue.push(Owed::Close)),
            10 => drop(queue.push(Owed::Evict(u64::from(detail)))),
            11 => drop(queue.push(Owed::Kept(naming(detail)))),
            12 => drop(queue.push(Owed::CopyEnd)),
            13 => drop(queue.push(Owed::Settings)),
            14 => drop(queue.push(Owed::CopyData)),
            15 => drop(queue.ready()),
            16 => drop(queue.error(|_, _| {})),
            17 => drop(queue.next_kept()),
            18 => drop(queue.unsettled(&[detail & 3]).is_some()),
            19 => {
                drop(queue.push(Owed::Shape(Box::new(ShapeOf { id: 1, stamp: 1, purpose: Purpose::Noted }))))
            }
            20 => drop(queue.take_shape()),
            21 => drop(queue.waits_for_copy()),
            22 => queue.leave_copy(),
            23 => drop(queue.take_question()),
            24 => drop(queue.take_usual(detail)),
            _ => drop(queue.reply(detail)),
        }
        assert!(!queue.at_rest() || queue.is_empty());
        assert!(queue.boundaries() == 0 || !queue.is_empty());
    }
});
