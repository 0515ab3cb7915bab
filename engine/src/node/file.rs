//! Reading TOML so that whoever wrote it learns what is wrong, in which line, and which key was meant.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// A file that is no configuration: where, and what was expected.
#[derive(Debug, Error)]
#[error("{path}{}: {what}", line.map_or(String::new(), |line| format!(" line {line}")), path = path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub what: String,
}

impl FileError {
    /// A fault of the file as a whole.
    pub fn whole(path: &Path, what: impl Into<String>) -> FileError {
        FileError {
            path: path.to_owned(),
            line: None,
            what: what.into(),
        }
    }
}

/// Larger files are refused unread: a cluster file of 128 nodes and 10,000 clients has less than 2 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The text of a file.
///
/// # Errors
/// [`FileError`] when it cannot be read, is too large or no UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    let cannot = |source: std::io::Error| FileError::whole(path, format!("cannot read: {source}"));
    let metadata = fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err(FileError::whole(path, "expected a file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::whole(
            path,
            format!("larger than {FILE_BYTES_MAX} bytes, this is no configuration"),
        ));
    }
    fs::read_to_string(path).map_err(cannot)
}

/// Reads `text`, the content of `path`, as a `T`.
///
/// # Errors
/// [`FileError`] with the line; an unknown key names the nearest known one.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| FileError {
        path: path.to_owned(),
        line: error.span().map(|span| line(text, &span)),
        what: with_nearest(error.message()),
    })
}

/// The line, from 1, in which `span` begins.
pub fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(span.start);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// The known name that `wrong` most resembles, if it resembles one at all.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name));
    let (distance, name) = scored.min()?;
    (distance <= wrong.len().max(name.len()) / 2).then_some(name)
}

/// "unknown key `x`; did you mean `y`?" with the list of what is known.
pub fn unknown_key(wrong: &str, known: &[&str]) -> String {
    let hint = nearest(wrong, known.iter().copied())
        .map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    format!("unknown key `{wrong}`{hint} (known: {})", known.join(", "))
}

/// serde lists the known names between backticks after the unknown one; the nearest is what was meant.
fn with_nearest(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(wrong) = quoted.next() else {
        return message.to_owned();
    };
    let known: Vec<&str> = quoted.collect();
    if message.starts_with("unknown field") {
        return unknown_key(wrong, &known);
    }
    match nearest(wrong, known.iter().copied()) {
        Some(name) if message.starts_with("unknown variant") => {
            format!("{message}; did you mean `{name}`?")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Sample {
        window: u64,
        checkpoint_every: u64,
    }

    fn error(text: &str) -> String {
        parse::<Sample>(Path::new("c.toml"), text)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn an_unknown_key_names_the_line_and_the_nearest_key() {
        assert_eq!(
            error("window = 1\ncheckpoint_evry = 2\n"),
            "c.toml line 2: unknown key `checkpoint_evry`; did you mean `checkpoint_every`? \
             (known: window, checkpoint_every)"
        );
        assert_eq!(
            error("zebra = 1\n"),
            "c.toml line 1: unknown key `zebra` (known: window, checkpoint_every)"
        );
    }

    #[test]
    fn a_wrong_type_and_broken_syntax_name_the_line() {
        assert!(
            error("window = 1\ncheckpoint_every = \"x\"\n")
                .starts_with("c.toml line 2: invalid type: string")
        );
        assert!(error("window = = 1\n").starts_with("c.toml line 1: "));
    }

    #[test]
    fn a_file_that_is_none_says_so() {
        let error = read(Path::new("/nonexistent/c.toml")).expect_err("there is none");
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/c.toml: cannot read: No such file")
        );
        assert!(
            read(Path::new("/"))
                .expect_err("a folder")
                .to_string()
                .ends_with("expected a file")
        );
    }
}
