//! Properties of what reads a peer's bytes: any input ends in a value or an error, and what one side writes the other
//! reads.

use bytes::BytesMut;
use pgvalet::protocol::frame::HEADER;
use pgvalet::protocol::startup::{MAX_STARTUP, Packet, packet_length};
use pgvalet::protocol::{ErrorFields, ErrorMessage, Header, backend, frontend, options};
use pgvalet::server::owed::{Naming, Owed, OwedQueue, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;

proptest! {
    #[test]
    fn a_startup_message_is_read_as_it_was_written(parameters in vec(("[a-z_.]{1,12}", "[^\0]{0,20}"), 0..10)) {
        let mut out = BytesMut::new();
        frontend::startup(&mut out, parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        prop_assert_eq!(packet_length(&out), Ok(Some(out.len())));
        let Ok(Packet::Startup(startup)) = Packet::parse(&out) else { panic!("not a startup message") };
        prop_assert_eq!(startup.parameters, parameters);
        for end in 0..out.len() {
            prop_assert!(Packet::parse(&out[..end]).is_err(), "a packet cut at {end} was taken for a whole one");
        }
    }

    #[test]
    fn any_first_packet_ends_in_a_value_or_an_error(bytes in vec(any::<u8>(), 0..200), code in any::<u32>()) {
        let _ = Packet::parse(&bytes);
        if let Ok(Some(length)) = packet_length(&bytes) {
            prop_assert!((8..=MAX_STARTUP).contains(&length));
        }
        // The same with a length that fits, so that the body is looked at.
        let mut packet = ((bytes.len() + 8) as u32).to_be_bytes().to_vec();
        packet.extend(code.to_be_bytes());
        packet.extend(&bytes);
        let _ = Packet::parse(&packet);
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut(bodies in vec((any::<u8>(), vec(any::<u8>(), 0..50)), 1..8)) {
        let mut stream = Vec::new();
        for (tag, body) in &bodies {
            stream.push(*tag);
            stream.extend((body.len() as u32 + 4).to_be_bytes());
            stream.extend(body);
        }
        let (mut at, mut received, mut found) = (0, 0, Vec::new());
        while received < stream.len() {
            received += 1;
            if let Some(header) = Header::parse(&stream[at..received]).unwrap()
                && at + header.total() <= received
            {
                found.push((header.tag, stream[at + HEADER..at + header.total()].to_vec()));
                at += header.total();
            }
        }
        prop_assert_eq!(found, bodies);
    }

    #[test]
    fn any_body_ends_in_a_value_or_nothing(body in vec(any::<u8>(), 0..100)) {
        let _ = frontend::read_parse(&body);
        let _ = frontend::read_target(&body);
        let _ = backend::read_data_row(&body);
        let _ = backend::read_parameter_status(&body);
        if let Some((portal, statement, names)) = frontend::read_bind(&body) {
            prop_assert_eq!(names, portal.len() + statement.len() + 2);
        }
        let fields = ErrorFields::new(&body);
        let _ = (fields.is_fatal(), fields.message());
        let mut out = BytesMut::new();
        backend::error_with_severity(&mut out, &body, "FATAL");
        prop_assert!(matches!(Header::parse(&out), Ok(Some(header)) if header.total() == out.len()));
    }

    #[test]
    fn an_error_is_read_as_it_was_written(message in "[^\0]{0,60}", hint in proptest::option::of("[^\0]{1,20}")) {
        let mut out = BytesMut::new();
        let error = ErrorMessage {
            severity: "ERROR", code: "0A000", message: &message, detail: None, hint: hint.as_deref(),
        };
        error.write(&mut out);
        let fields = ErrorFields::new(&out[HEADER..]);
        prop_assert_eq!((fields.code(), fields.message()), (&b"0A000"[..], message));
        prop_assert_eq!(fields.get(b'H'), hint.as_deref().map(str::as_bytes));
    }

    #[test]
    fn options_are_read_as_they_were_escaped(settings in vec(("[a-z]{1,8}", "[ -~]{0,12}"), 0..6)) {
        let mut text = String::new();
        for (name, value) in &settings {
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            text.push_str(&format!(" -c {name}={escaped}"));
        }
        prop_assert_eq!(options::parse(&text), Ok(settings));
    }

    #[test]
    fn any_options_end_in_a_value_or_an_error(text in any::<String>()) {
        let _ = options::parse(&text);
    }

    /// A model of PostgreSQL's rules answers a random pipeline, now and then, while more of it is sent: the queue agrees
    /// with every reply, and at the end with what is outstanding.
    #[test]
    fn the_queue_of_owed_replies_agrees_with_a_model_server(
        pipeline in vec((0usize..10, prop::bool::weighted(0.15), 0usize..4), 1..60)
    ) {
        let mut queue = OwedQueue::default();
        let mut model = Model::default();
        for (kind, fails, replies) in pipeline {
            let (message, owed) = message(kind);
            model.receive(message, fails);
            queue.push(owed);
            for _ in 0..replies {
                deliver(&mut queue, &mut model);
            }
        }
        while deliver(&mut queue, &mut model) {}
        prop_assert!(queue.is_empty());
        prop_assert_eq!(queue.at_rest(), !model.open);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Message {
    Query,
    Sync,
    Function,
    /// A message of the extended protocol, with the tags of its answer.
    Extended(&'static [u8]),
    /// One that the server never sees.
    Kept,
}

fn message(kind: usize) -> (Message, Owed) {
    let naming = || Box::new(Naming { name: b"n"[..].into(), previous: None, prepares: None });
    match kind {
        0 => (Message::Query, Owed::Query(None)),
        1 | 2 => (Message::Sync, Owed::Sync),
        3 => (Message::Function, Owed::FunctionCall),
        4 => (Message::Extended(b"1"), Owed::Parse(naming())),
        5 => (Message::Extended(b"2"), Owed::Bind),
        6 => (Message::Extended(b"tn"), Owed::DescribeStatement),
        7 => (Message::Extended(b"DDC"), Owed::Execute),
        8 => (Message::Extended(b"3"), Owed::Close),
        _ => (Message::Kept, Owed::Kept(naming())),
    }
}

/// PostgreSQL, as far as the order of its replies goes.
#[derive(Debug, Default)]
struct Model {
    replies: VecDeque<u8>,
    skipping: bool,
    /// A batch is open that no Sync has ended.
    open: bool,
}

impl Model {
    fn receive(&mut self, message: Message, fails: bool) {
        if self.skipping && message != Message::Sync {
            return;
        }
        match message {
            Message::Sync => {
                self.skipping = false;
                self.open = false;
                self.replies.push_back(b'Z');
            }
            Message::Query | Message::Function => {
                self.open = false;
                self.replies.push_back(if fails {
                    b'E'
                } else if message == Message::Query {
                    b'C'
                } else {
                    b'V'
                });
                self.replies.push_back(b'Z');
            }
            Message::Extended(_) if fails => {
                self.skipping = true;
                self.open = true;
                self.replies.push_back(b'E');
            }
            Message::Extended(tags) => {
                self.open = true;
                self.replies.extend(tags);
            }
            Message::Kept => self.open = true,
        }
    }
}

/// Gives one reply of the model to the queue. False if there is none.
fn deliver(queue: &mut OwedQueue, model: &mut Model) -> bool {
    while queue.next_kept() {}
    let Some(tag) = model.replies.pop_front() else { return false };
    let verdict = match tag {
        b'Z' => queue.ready(),
        b'E' => queue.error(|_, _| {}),
        tag => queue.reply(tag),
    };
    assert_eq!(verdict, Verdict::Forward, "{}", tag as char);
    while queue.next_kept() {}
    true
}
