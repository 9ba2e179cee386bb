//! The memory of a process, read as a debugger would read it, and as a core file would keep it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// How often `secret` stands in the memory of a process that may be written to.
pub fn occurrences(pid: u32, secret: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("it may be looked at");
    let mut count = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let address = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (address(from), address(to));
        let mut bytes = vec![0; (to - from) as usize];
        // Some regions cannot be read.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        for place in memchr::memmem::find_iter(&bytes, secret) {
            count += 1;
            if count < 4 {
                let around = &bytes[place.saturating_sub(48)..(place + secret.len() + 16).min(bytes.len())];
                let around = String::from_utf8_lossy(around);
                println!("{range} at {place:x}: {}", around.escape_debug());
            }
        }
    }
    count
}
