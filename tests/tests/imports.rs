//! What the engine's source may name: roles do no I/O and read no clock, and no module depends on itself in a
//! circle (DESIGN sections 1 and 2). Read from the source files, without tests and comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that host the roles: they have the sockets, clocks and threads.
const HOSTS: [&str; 5] = [
    "node",
    "journal",
    "letter.rs",
    "client/host.rs",
    "client/facade.rs",
];

/// What makes a role impure, and what to use instead.
const FORBIDDEN: [(&str, &str); 12] = [
    ("Instant", "the host says what time it is"),
    ("SystemTime", "the host says what time it is"),
    ("std::net", "the host does I/O"),
    ("std::fs", "the host does I/O"),
    ("std::thread", "the host owns the threads"),
    ("std::sync::mpsc", "the host owns the threads"),
    ("Mutex", "a machine is stepped by one thread"),
    ("HashMap", "its order is random: use BTreeMap or a ring"),
    ("HashSet", "its order is random: use BTreeSet or NodeSet"),
    ("tokio", "roles are not async"),
    ("getrandom", "chance comes from a configured seed"),
    ("f64", "floats differ between machines"),
];

/// One source file of the engine: its path below `engine/src`, and its code without tests and comments.
struct Source {
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the engine") {
            let path = entry.expect("an entry of it").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path)
            {
                let text = fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(&root).expect("below the root");
                sources.push(Source {
                    path: path.to_string_lossy().into_owned(),
                    code: code(&text),
                });
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(
        sources.len() > 20,
        "the engine has more files than these {}",
        sources.len()
    );
    sources
}

fn is_test(path: &Path) -> bool {
    let stem = path
        .file_stem()
        .expect("a file has a name")
        .to_string_lossy();
    stem == "tests" || stem.ends_with("_tests")
}

/// The text up to the tests, which stand last, without comments.
fn code(text: &str) -> String {
    let body = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .expect("there is a first part");
    let lines = body
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Whether `word` stands in `code` as a word of its own, not as a part of another one.
fn names(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_none_or(|c| !is_part(c));
        let after = code[at + word.len()..]
            .chars()
            .next()
            .is_none_or(|c| !is_part(c));
        before && after
    })
}

fn is_host(source: &Source) -> bool {
    HOSTS
        .iter()
        .any(|host| Path::new(&source.path).starts_with(host))
}

#[test]
fn roles_name_no_clock_socket_thread_or_random_order() {
    for source in sources().iter().filter(|source| !is_host(source)) {
        for (word, instead) in FORBIDDEN {
            assert!(
                !names(&source.code, word),
                "engine/src/{} names {word}: {instead}",
                source.path
            );
        }
    }
}

#[test]
fn roles_know_nothing_of_the_network_but_bodies() {
    for source in sources().iter().filter(|source| !is_host(source)) {
        for (at, _) in source.code.match_indices("twostep_net") {
            let rest = &source.code[at..];
            assert!(
                rest.starts_with("twostep_net::pool::"),
                "engine/src/{} names more of net than its pool",
                source.path
            );
        }
    }
}

#[test]
fn the_hosts_are_where_the_clocks_are() {
    // If this fails the lists above no longer say anything: a host was moved, and roles may hide in its place.
    let hosts: Vec<Source> = sources().into_iter().filter(is_host).collect();
    assert!(hosts.iter().any(|source| names(&source.code, "Instant")));
    for host in HOSTS {
        assert!(
            hosts
                .iter()
                .any(|source| Path::new(&source.path).starts_with(host)),
            "there is no engine/src/{host}"
        );
    }
}

#[test]
fn modules_depend_on_each_other_without_circles() {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let module = module(&source.path);
        let used = uses.entry(module.clone()).or_default();
        for (at, _) in source.code.match_indices("crate::") {
            let rest = &source.code[at + "crate::".len()..];
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            used.insert(rest[..end].to_owned());
        }
        used.remove(&module);
    }
    assert!(
        uses["replica"].contains("acceptor"),
        "the graph is read from the files"
    );
    // Modules that use nothing that is left are taken away; what cannot be taken away is in a circle.
    while !uses.is_empty() {
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        let free: Vec<String> = left
            .iter()
            .filter(|module| uses[*module].is_disjoint(&left))
            .cloned()
            .collect();
        assert!(
            !free.is_empty(),
            "these modules depend on each other in a circle: {left:?}"
        );
        for module in free {
            uses.remove(&module);
        }
    }
}

fn module(path: &str) -> String {
    let first = PathBuf::from(path)
        .iter()
        .next()
        .expect("a path has parts")
        .to_string_lossy()
        .into_owned();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}
