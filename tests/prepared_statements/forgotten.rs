//! Statements that are evicted, deallocated, or left unfinished.

use super::{Rotating, exchange, expect_error, one, run};
use crate::support::backend::{first_error, rows, tags};
use crate::support::frontend::{close_statement, flush, parse, query, sync};

#[test]
fn a_server_keeps_no_more_statements_than_it_may() {
    let mut pool = Rotating::start(&["max_prepared_statements = 2"]);
    let mut client = pool.client();
    let names: Vec<String> = (0..9).map(|number| format!("s{number}")).collect();
    for name in &names {
        assert_eq!(tags(&exchange(&mut client, &[parse(name, &format!("SELECT '{name}'")), sync()])), "1Z");
    }
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql";
    for round in 0..3 {
        pool.rotate();
        for name in names.iter().skip(round) {
            let reply = exchange(&mut client, &[run(name), sync()]);
            assert_eq!((tags(&reply).as_str(), one(&reply)), ("2DCZ", name.clone()));
            let on_server: u32 = client.value(count).parse().expect("a number");
            assert!((1..=2).contains(&on_server), "{on_server} on the server");
        }
    }
    // More in one batch than the server may keep, in an order that evicts what comes next.
    pool.rotate();
    let order = [0, 1, 2, 3, 0, 3, 2, 1, 8, 8, 0];
    let mut batch: Vec<Vec<u8>> = order.iter().map(|&number| run(&names[number])).collect();
    batch.push(sync());
    let reply = exchange(&mut client, &batch);
    assert_eq!(tags(&reply), "2DC".repeat(order.len()) + "Z");
    let expected: Vec<_> = order.iter().map(|&number| Some(names[number].clone())).collect();
    assert_eq!(rows(&reply).concat(), expected);
}

#[test]
fn a_batch_of_new_statements_outlives_their_eviction() {
    let mut pool = Rotating::start(&["max_prepared_statements = 2"]);
    let mut client = pool.client();
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    let mut batch: Vec<Vec<u8>> = names.iter().map(|name| parse(name, &format!("SELECT '{name}'"))).collect();
    batch.extend(names.iter().map(|name| run(name)));
    batch.push(sync());
    let reply = exchange(&mut client, &batch);
    assert_eq!(tags(&reply), "1".repeat(6) + &"2DC".repeat(6) + "Z");
    // An error among them undoes what came after it, evictions included, and nothing else.
    pool.rotate();
    let reply = exchange(
        &mut client,
        &[
            run("n0"),
            run("n1"),
            run("n2"),
            parse("bad", "SELECT bad"),
            run("n3"),
            run("n4"),
            parse("n9", "SELECT 9"),
            sync(),
        ],
    );
    assert_eq!(tags(&reply), "2DC2DC2DCEZ");
    for name in &names {
        assert_eq!(one(&exchange(&mut client, &[run(name), sync()])), *name);
        assert_eq!(one(&exchange(&mut client, &[run("n0"), run(name), sync()])[3..]), *name);
    }
    expect_error(
        &exchange(&mut client, &[run("n9"), sync()]),
        "26000",
        "prepared statement \"n9\" does not exist",
    );
}

#[test]
fn deallocate_all_and_discard_all_forget_the_clients_statements() {
    let mut pool = Rotating::start(&[]);
    let (mut client, mut other) = (pool.client(), pool.client());
    exchange(&mut other, &[parse("other", "SELECT 'other'"), sync()]);
    for (command, extended) in
        [("DEALLOCATE ALL", false), ("DISCARD ALL", false), ("DEALLOCATE ALL", true), ("DISCARD ALL", true)]
    {
        exchange(&mut client, &[parse("gone", "SELECT 'gone'"), parse("", "SELECT 'unnamed'"), sync()]);
        let reply = if extended { client.extended(command, &[]) } else { client.query(command) };
        assert_eq!(first_error(&reply), None, "{reply:?}");
        for _ in 0..2 {
            let reply = exchange(&mut client, &[run("gone"), sync()]);
            expect_error(&reply, "26000", "prepared statement \"gone\" does not exist");
            assert_eq!(one(&exchange(&mut other, &[run("other"), sync()])), "other", "after {command}");
            pool.rotate();
        }
    }
}

#[test]
fn a_parse_pipelined_behind_deallocate_all_is_not_forgotten() {
    for command in ["DEALLOCATE ALL", "DISCARD ALL"] {
        let mut pool = Rotating::start(&[]);
        let mut client = pool.client();
        exchange(&mut client, &[parse("old", "SELECT 'old'"), sync()]);
        client.send(
            &[query(command), parse("new", "SELECT 'new'"), run("new"), parse("", "SELECT ''"), sync()]
                .concat(),
        );
        assert_eq!(tags(&client.until_ready()), "CZ");
        assert_eq!(tags(&client.until_ready()), "12DC1Z");
        for _ in 0..3 {
            assert_eq!(one(&exchange(&mut client, &[run("new"), sync()])), "new", "{command}");
            assert_eq!(one(&exchange(&mut client, &[run(""), sync()])), "", "{command}");
            expect_error(
                &exchange(&mut client, &[run("old"), sync()]),
                "26000",
                "prepared statement \"old\" does not exist",
            );
            pool.rotate();
        }
    }
}

#[test]
fn a_name_is_free_again_behind_a_pipelined_deallocate_all() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("name", "SELECT 'old'"), sync()]);
    client.send(&[query("DEALLOCATE ALL"), parse("name", "SELECT 'new'"), sync()].concat());
    assert_eq!(tags(&client.until_ready()), "CZ");
    assert_eq!(tags(&client.until_ready()), "1Z");
    for _ in 0..3 {
        assert_eq!(one(&exchange(&mut client, &[run("name"), sync()])), "new");
        pool.rotate();
    }
}

#[test]
fn a_statement_that_a_pipelined_deallocate_all_closes_is_prepared_anew() {
    for command in ["DEALLOCATE ALL", "discard all"] {
        let mut pool = Rotating::start(&[]);
        let mut client = pool.client();
        exchange(&mut client, &[parse("one", "SELECT 'same text'"), sync()]);
        // The server has this text when the Parse is sent, and not any more when it comes to it.
        client.send(&[query(command), parse("other", "SELECT 'same text'"), run("other"), sync()].concat());
        assert_eq!(tags(&client.until_ready()), "CZ");
        assert_eq!(tags(&client.until_ready()), "12DCZ", "{command}");
        for _ in 0..2 {
            assert_eq!(one(&exchange(&mut client, &[run("other"), sync()])), "same text");
            pool.rotate();
        }
    }
}

#[test]
fn the_unnamed_statement_survives_deallocate_all() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    let command = [parse("named", "DEALLOCATE ALL"), parse("", "SELECT 'unnamed'"), run("named"), sync()];
    assert_eq!(tags(&exchange(&mut client, &command)), "112CZ");
    for _ in 0..2 {
        assert_eq!(one(&exchange(&mut client, &[run(""), sync()])), "unnamed");
        pool.rotate();
    }
}

#[test]
fn what_a_client_left_unfinished_is_not_trusted_for_the_next() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    // Parsed by no server, for the client leaves before the Sync of its failed batch.
    client.send(&[parse("a", "SELECT broken"), parse("b", "SELECT 'never parsed'"), flush()].concat());
    client.until(b'E');
    client.reset();
    let mut next = pool.client();
    for _ in 0..2 {
        let reply = exchange(
            &mut next,
            &[parse("x", "SELECT 'never parsed'"), run("x"), close_statement("x"), sync()],
        );
        assert_eq!(tags(&reply), "12DC3Z");
        pool.rotate();
    }
}
