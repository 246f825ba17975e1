//! Reading tokens from the text.

use lathe_tensor::DType;

use super::ParseError;
use crate::{Dim, ValueType};

pub(super) struct Cursor<'a> {
    text: &'a str,
    position: usize,
}

/// The error at a byte offset.
pub(super) fn error_at(text: &str, position: usize, reason: impl Into<String>) -> ParseError {
    let before = text.get(..position).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    ParseError { line, column, reason: reason.into() }
}

pub(super) type Parsed<T> = Result<T, ParseError>;

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

/// Whether a name is printed without quotes.
pub(super) fn is_plain_name(name: &str) -> bool {
    let is_constant = name.strip_prefix('c').is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()));
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(in_name)
        && name != "_"
        && !is_constant
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> ParseError {
        error_at(self.text, self.position, reason)
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or("")
    }

    pub(super) fn skip_space(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
    }

    /// Skips blank lines and comments.
    pub(super) fn skip_lines(&mut self) {
        loop {
            let rest = self.rest();
            self.position += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.skip_line();
        }
    }

    fn skip_line(&mut self) {
        let rest = self.rest();
        self.position += rest.find('\n').unwrap_or(rest.len());
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest().chars().next()
    }

    pub(super) fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        self.position += if found { token.len() } else { 0 };
        found
    }

    pub(super) fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(self.error(format!("expected `{token}`"))) }
    }

    /// The longest run of accepted characters.
    pub(super) fn run(&mut self, accept: fn(char) -> bool) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    pub(super) fn word(&mut self) -> &'a str {
        self.run(in_name)
    }

    /// The word, if it is this one.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let before = self.position;
        let found = self.word() == word;
        if !found {
            self.position = before;
        }
        found
    }

    pub(super) fn number(&mut self) -> Parsed<u64> {
        let start = self.position;
        let digits = self.run(|c| c.is_ascii_digit());
        digits.parse().map_err(|_| error_at(self.text, start, "expected a number"))
    }

    /// A JSON value.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&mut self) -> Parsed<T> {
        self.skip_space();
        let mut stream = serde_json::Deserializer::from_str(self.rest()).into_iter::<T>();
        match stream.next() {
            Some(Ok(value)) => {
                self.position += stream.byte_offset();
                Ok(value)
            }
            Some(Err(error)) => Err(self.error(format!("not a value: {error}"))),
            None => Err(self.error("expected a value")),
        }
    }

    /// A plain name or one in quotes.
    pub(super) fn name(&mut self) -> Parsed<String> {
        if self.peek() == Some('"') {
            return self.json();
        }
        let word = self.word();
        if word.is_empty() { Err(self.error("expected a name")) } else { Ok(word.to_string()) }
    }

    pub(super) fn dim(&mut self) -> Parsed<Dim> {
        match Dim::parse_prefix(self.rest()) {
            Ok((dim, length)) => {
                self.position += length;
                Ok(dim)
            }
            Err(error) => Err(error_at(self.text, self.position + error.position, error.reason)),
        }
    }

    /// `[a, b]`.
    pub(super) fn dims(&mut self) -> Parsed<Vec<Dim>> {
        self.expect("[")?;
        let mut dims = Vec::new();
        if self.take("]") {
            return Ok(dims);
        }
        loop {
            dims.push(self.dim()?);
            if self.take("]") {
                return Ok(dims);
            }
            self.expect(",")?;
        }
    }

    pub(super) fn ty(&mut self) -> Parsed<ValueType> {
        self.skip_space();
        let start = self.position;
        let dtype: DType =
            self.word().parse().map_err(|error| error_at(self.text, start, format!("{error}")))?;
        let dims = self.dims()?;
        if dims.len() > crate::infer::MAX_RANK {
            return Err(error_at(self.text, start, "the rank is too large"));
        }
        if dims.iter().any(Dim::is_overflow) {
            return Err(error_at(self.text, start, "a size overflows"));
        }
        Ok(ValueType { dtype, dims })
    }

    /// The end of a statement: a line break, with the name in a comment in quotes.
    pub(super) fn end_of_line(&mut self) -> Parsed<Option<String>> {
        let mut name = None;
        if self.take("//") {
            if self.peek() == Some('"') {
                name = self.json().ok();
            }
            self.skip_line();
        }
        if self.at_end() || self.take("\n") {
            return Ok(name);
        }
        Err(self.error("expected the end of the line"))
    }
}
