//! Plays every story in `tests/scripts` and compares what happens with what is written there.
//!
//! `TWOSTEP_BLESS=1 cargo test -p twostep-tests --test scripts` writes down what happens instead. Read the difference
//! before committing it: a changed story is a decision.

use std::fs;
use std::path::Path;

use twostep_tests::script;

#[test]
fn stories_happen_as_they_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry of it").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "there are stories");
    for path in paths {
        let text = fs::read_to_string(&path).expect("a script");
        let name = path.file_name().expect("a name").to_string_lossy();
        let written = script::parse(&text);
        let happened = script::run(&written).unwrap_or_else(|error| panic!("{name}: {error}"));
        if std::env::var_os("TWOSTEP_BLESS").is_some() {
            fs::write(&path, script::render(&happened)).expect("the script can be written");
            continue;
        }
        for (written, happened) in written.iter().zip(&happened) {
            assert_eq!(
                written.expected, happened.expected,
                "{name}: this differs after\n{}\nleft: written, right: happened",
                written.commands
            );
        }
    }
}
