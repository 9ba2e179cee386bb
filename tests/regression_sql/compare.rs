//! What is different, and what of it is known.

use std::collections::HashMap;
use std::fmt;

use crate::suite::Outputs;

/// Files that differ for a known reason (docs/session-state.md), and how many lines may, on both sides together.
const KNOWN: [(&str, usize, &str); 5] = [
    (
        "triggers",
        60,
        "functions in C remember things in the memory of their server: refint its plans, ttdummy a switch",
    ),
    ("guc", 4, "a library that another client's work has loaded owns its prefix of settings from then on"),
    ("temp", 2, "a server's schema for temporary objects is there from its first use on"),
    ("prepare", 60, "pg_prepared_statements shows what the server at hand has"),
    ("stats", 60, "each server reports its part of the statistics when it comes to it"),
];

/// Lines of a file that are shown.
const SHOWN: usize = 20;

/// How the outputs compare.
#[derive(Debug)]
pub struct Findings {
    equal: usize,
    /// Files that PostgreSQL itself does not answer twice in the same way.
    unsteady: Vec<String>,
    /// Files with what is known of them and how many lines differ.
    known: Vec<(String, usize, &'static str)>,
    /// Files with the lines that differ.
    different: Vec<(String, Vec<String>)>,
}

impl Findings {
    pub fn of(files: &[String], direct: &Outputs, again: &Outputs, pooled: &Outputs) -> Self {
        let mut found = Self { equal: 0, unsteady: Vec::new(), known: Vec::new(), different: Vec::new() };
        for file in files {
            let (direct, again, pooled) = (&direct.0[file], &again.0[file], &pooled.0[file]);
            let lines = difference(direct, pooled);
            let known = KNOWN.iter().find(|(name, ..)| name == file);
            match known {
                _ if pooled == direct || pooled == again => found.equal += 1,
                Some((_, most, reason)) if lines.len() <= *most => {
                    found.known.push((file.clone(), lines.len(), reason));
                }
                _ if direct != again => found.unsteady.push(file.clone()),
                _ => found.different.push((file.clone(), lines)),
            }
        }
        found
    }

    pub fn none(&self) -> bool {
        self.different.is_empty()
    }
}

/// The lines that only one of two texts has, or one has more often.
fn difference(direct: &str, pooled: &str) -> Vec<String> {
    let mut counts: HashMap<&str, i32> = HashMap::new();
    direct.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    let mut lines = Vec::new();
    for line in pooled.lines() {
        let count = counts.entry(line).or_default();
        *count -= 1;
        if *count < 0 {
            lines.push(format!("> {line}"));
        }
    }
    for line in direct.lines() {
        if let Some(count) = counts.get_mut(line).filter(|count| **count > 0) {
            *count -= 1;
            lines.push(format!("< {line}"));
        }
    }
    if lines.is_empty() && direct != pooled {
        lines.push("(the same lines in another order)".into());
    }
    lines
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} files are equal", self.equal)?;
        for (file, lines, reason) in &self.known {
            writeln!(out, "known: {file}, {lines} lines: {reason}")?;
        }
        if !self.unsteady.is_empty() {
            writeln!(out, "PostgreSQL itself does not print the same twice: {:?}", self.unsteady)?;
        }
        for (file, lines) in &self.different {
            writeln!(out, "different: {file}")?;
            lines.iter().take(SHOWN).try_for_each(|line| writeln!(out, "    {line}"))?;
        }
        Ok(())
    }
}
