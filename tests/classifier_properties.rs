//! Properties of the statement classifier: it never panics, and no dressing makes an unsafe statement look harmless.

use pgvalet::session::{CatalogFacts, classify::begins_transaction, classify::classify};
use proptest::prelude::*;

fn facts() -> CatalogFacts {
    let rows = [
        ["size", "fits", "", ""],
        ["relation", "users", "1", ""],
        ["relation", "orders", "2", ""],
        ["relation", "audited", "3", "w"],
        ["relation", "some_view", "4", "rw"],
        ["function", "user_status", "", "a"],
    ];
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
    CatalogFacts::from_rows(&rows)
}

fn is_stateless(sql: &str) -> bool {
    classify(sql.as_bytes(), &facts(), false).is_stateless()
}

/// Expressions that leave something behind, or might.
const UNSAFE_EXPRESSIONS: &[&str] = &[
    "set_config('a.b', 'c', false)",
    "pg_catalog.set_config('a.b', 'c', false)",
    "\"set_config\"('a.b', 'c', false)",
    "nextval('s')",
    "('s'::regclass).nextval",
    "pg_advisory_lock(1)",
    "my_function()",
    "other.lower('a')",
    "'a'::my_type",
    "my_type 'a'",
    "cast('a' as my_type)",
    "(select max(a) from some_view)",
    "(select max(a) from missing)",
    "(select max(a) from users, missing)",
    "(select max(a) from users join missing on true)",
    "(select u.user_status from users u)",
    "array(select a from only missing)",
    "case when true then my_function() else 1 end",
    "coalesce(1, lower(my_function()::text))",
    "(with t as (select my_function()) select 1 from t)",
];

/// Statements that leave something behind, or might.
const UNSAFE_STATEMENTS: &[&str] = &[
    "set work_mem = '1MB'",
    "set role x",
    "reset all",
    "listen a",
    "prepare a as select 1",
    "declare c cursor with hold for select 1",
    "create temp table t (a int)",
    "select 1 into t",
    "do $$ begin end $$",
    "call p()",
    "load 'x'",
    "insert into audited values (1)",
    "copy audited from stdin",
    "update audited set a = 1",
    "delete from missing",
    "select * from some_view",
    "values (my_function())",
    "explain analyze select my_function()",
];

/// Harmless statements; an expression can stand at `#`.
const HOSTS: &[&str] = &[
    "select # from users",
    "select a, # as b from users where c = 1",
    "select * from users where a = #",
    "select * from users u left join orders o on u.a = # where true",
    "select * from users order by #, a limit 1",
    "select * from (select # as a) x, users",
    "select * from users, lateral (select #) x",
    "select count(*) filter (where # is not null) over (partition by a) from users",
    "select array[1, #], row(#), exists (select #)",
    "select distinct on (a) # from users",
    "select a[#] from users",
    "select extract(epoch from #)",
    "select a is distinct from #, b from users",
    "select case # when 1 then 2 end",
    "with t as (select #) select * from t",
    "with recursive t (a) as (select 1 union all select # from t) select * from t",
    "values (1), (#)",
    "insert into users (a) values (#) on conflict (a) do update set a = 1 returning a",
    "insert into users values (1) on conflict (a) do update set a = #",
    "insert into users select # from orders",
    "update users set a = # from orders o where o.a = 1",
    "update users set a = 1 where b = # returning *",
    "delete from users using orders where orders.a = #",
    "merge into users using orders on true when matched and # is null then update set a = #",
    "select 1 union (select # from orders)",
    "copy (select #) to stdout",
    "explain (costs off) select #",
    "declare c cursor for select #",
    "begin; select #; commit",
];

/// Blanks and comments that may stand between tokens.
fn blank() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(" ".to_owned()),
        Just("\n\t ".to_owned()),
        Just("/* a ; ' \" */".to_owned()),
        Just("/* a /* b */ $$ */ ".to_owned()),
        Just("-- a ' ; /* \n".to_owned()),
    ]
}

/// The same text with other blanks, and another case outside quotes.
fn dress(sql: &str, blanks: &[String], upper: &[bool]) -> String {
    let (mut dressed, mut quote, mut count) = (String::new(), None, 0_usize);
    for character in sql.chars() {
        count += 1;
        match quote {
            Some(open) if character == open => quote = None,
            None if matches!(character, '\'' | '"') => quote = Some(character),
            None if character == ' ' => {
                dressed.push_str(&blanks[count % blanks.len()]);
                continue;
            }
            None if upper[count % upper.len()] => {
                dressed.push(character.to_ascii_uppercase());
                continue;
            }
            _ => {}
        }
        dressed.push(character);
    }
    dressed
}

fn dressing() -> impl Strategy<Value = (Vec<String>, Vec<bool>)> {
    (prop::collection::vec(blank(), 1..5), prop::collection::vec(any::<bool>(), 1..9))
}

#[test]
fn the_hosts_are_harmless_and_the_guests_are_not() {
    for host in HOSTS {
        assert!(is_stateless(&host.replace('#', "1")), "{host}");
    }
    for expression in UNSAFE_EXPRESSIONS {
        assert!(!is_stateless(&format!("select {expression}")), "{expression}");
    }
    for statement in UNSAFE_STATEMENTS {
        assert!(!is_stateless(statement), "{statement}");
    }
}

#[test]
fn no_place_hides_an_unsafe_expression() {
    for host in HOSTS {
        for expression in UNSAFE_EXPRESSIONS {
            let sql = host.replace('#', expression);
            assert!(!is_stateless(&sql), "{sql}");
            let quoted = expression.replace('\'', "''");
            for harmless in
                [format!("'{quoted}'"), format!("$q${expression}$q$"), format!("/* {expression} */ 1")]
            {
                let sql = host.replace('#', &harmless);
                assert!(is_stateless(&sql), "{sql}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_judged_without_panic(sql in prop::collection::vec(any::<u8>(), 0..300), hidden: bool) {
        let _ = classify(&sql, &facts(), hidden);
        let _ = begins_transaction(&sql);
    }

    #[test]
    fn any_tokens_are_judged_without_panic(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "select", "from", "with", "recursive", "as", "(", ")", "[", "]", ",", ";", ".", "::", "users", "x",
                "insert", "into", "update", "delete", "using", "join", "on", "values", "'a'", "1", "$1", "*", "cast",
                "union", "table", "only", "lateral", "merge", "set", "copy", "to", "stdout", "explain", "declare",
                "cursor", "for", "is", "not", "distinct", "lower", "int", "default", "/*", "*/", "--", "\n", "$$", "'",
            ]),
            0..40,
        )
    ) {
        let _ = classify(tokens.join(" ").as_bytes(), &facts(), false);
        let _ = classify(tokens.concat().as_bytes(), &facts(), false);
    }

    #[test]
    fn dressing_makes_nothing_unsafe_harmless(
        host in prop::sample::select(HOSTS),
        expression in prop::sample::select(UNSAFE_EXPRESSIONS),
        (blanks, upper) in dressing(),
    ) {
        let sql = dress(&host.replace('#', expression), &blanks, &upper);
        prop_assert!(!is_stateless(&sql), "{}", sql);
    }

    #[test]
    fn dressing_keeps_what_is_harmless_harmless(
        host in prop::sample::select(HOSTS),
        (blanks, upper) in dressing(),
    ) {
        let sql = dress(&host.replace('#', "lower('A b')"), &blanks, &upper);
        prop_assert!(is_stateless(&sql), "{}", sql);
    }

    #[test]
    fn an_unsafe_statement_is_seen_before_and_behind_others(
        host in prop::sample::select(HOSTS),
        statement in prop::sample::select(UNSAFE_STATEMENTS),
        (blanks, upper) in dressing(),
    ) {
        let host = host.replace('#', "1");
        for sql in [format!("{host} ; {statement}"), format!("{statement} ; {host}"), statement.to_owned()] {
            let sql = dress(&sql, &blanks, &upper);
            prop_assert!(!is_stateless(&sql), "{}", sql);
        }
        let comment = format!("{host} /* ; {statement} */ ; select $q$ ; {statement} $q$");
        prop_assert!(is_stateless(&comment), "{}", comment);
    }

    #[test]
    fn cutting_a_text_short_never_panics_and_open_quotes_are_unknown(
        host in prop::sample::select(HOSTS),
        at in any::<prop::sample::Index>(),
    ) {
        let sql = host.replace('#', "'a'");
        let cut = &sql[..at.index(sql.len())];
        let _ = classify(cut.as_bytes(), &facts(), false);
        let unterminated = format!("{sql} 'a");
        prop_assert!(!is_stateless(&unterminated), "{}", unterminated);
    }
}
