//! The text form: `2*seq + 1`, `floordiv(a, 2)`; names that are no identifiers stand in quotes.

use std::fmt;

use super::{Atom, Dim, Symbol};

/// Text that is not a dim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {position}")]
pub struct DimParseError {
    /// Byte offset into the text.
    pub position: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Atom {
    fn function(&self) -> &'static str {
        match self {
            Atom::FloorDiv(_) => "floordiv",
            Atom::Mod(_) => "mod",
            Atom::Min(_) => "min",
            Atom::Max(_) => "max",
            Atom::Broadcast(_) => "bcast",
            Atom::Product(_) => "mul",
            Atom::Symbol(_) | Atom::Overflow => "overflow",
        }
    }
}

fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn continues_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        let plain = name.starts_with(starts_name) && name.chars().all(continues_name) && name != "overflow";
        if plain { f.write_str(name) } else { write!(f, "{}", serde_json::Value::from(name)) }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.operands()) {
            (Atom::Symbol(symbol), _) => symbol.fmt(f),
            (_, Some((a, b))) => write!(f, "{}({a}, {b})", self.function()),
            (_, None) => f.write_str("overflow"),
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "{}", self.constant);
        }
        for (index, term) in self.terms.iter().enumerate() {
            let sign = match (index, term.coefficient < 0) {
                (0, true) => "-",
                (0, false) => "",
                (_, true) => " - ",
                (_, false) => " + ",
            };
            f.write_str(sign)?;
            if term.coefficient.unsigned_abs() != 1 {
                write!(f, "{}*", term.coefficient.unsigned_abs())?;
            }
            for (index, atom) in term.factors.iter().enumerate() {
                write!(f, "{}{atom}", if index == 0 { "" } else { "*" })?;
            }
        }
        match self.constant {
            0 => Ok(()),
            constant => write!(f, " {} {}", if constant < 0 { "-" } else { "+" }, constant.unsigned_abs()),
        }
    }
}

impl std::str::FromStr for Dim {
    type Err = DimParseError;

    fn from_str(text: &str) -> Result<Self, DimParseError> {
        let mut parser = Parser { text, position: 0, depth: 0 };
        let dim = parser.sum()?;
        parser.skip_space();
        if parser.position < text.len() {
            return Err(parser.error("unexpected character"));
        }
        Ok(dim)
    }
}

impl Dim {
    /// Reads a dim from the start of `text`: the dim and the number of bytes read.
    pub(crate) fn parse_prefix(text: &str) -> Result<(Dim, usize), DimParseError> {
        let mut parser = Parser { text, position: 0, depth: 0 };
        let dim = parser.sum()?;
        Ok((dim, parser.position))
    }
}

/// Nested parentheses and calls in a text.
const MAX_NESTING: u32 = 100;

struct Parser<'a> {
    text: &'a str,
    position: usize,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn error(&self, reason: &str) -> DimParseError {
        DimParseError { position: self.position, reason: reason.to_string() }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or("")
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn take(&mut self, c: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(c);
        self.position += if found { c.len_utf8() } else { 0 };
        found
    }

    fn take_while(&mut self, accept: fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    fn sum(&mut self) -> Result<Dim, DimParseError> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(self.error("the expression is nested too deeply"));
        }
        let mut sum = if self.take('-') { self.product(true)? } else { self.product(false)? };
        loop {
            if self.take('+') {
                sum = sum.add(&self.product(false)?);
            } else if self.take('-') {
                sum = sum.add(&self.product(true)?);
            } else {
                self.depth -= 1;
                return Ok(sum);
            }
        }
    }

    fn product(&mut self, negative: bool) -> Result<Dim, DimParseError> {
        let mut product = self.factor(negative)?;
        if negative && product.as_constant().is_none() {
            product = product.scale(-1);
        }
        while self.take('*') {
            product = product.mul(&self.factor(false)?);
        }
        Ok(product)
    }

    /// A factor; an integer is read with its sign, so that the smallest one parses.
    fn factor(&mut self, negative: bool) -> Result<Dim, DimParseError> {
        self.skip_space();
        let start = self.position;
        match self.rest().chars().next() {
            Some(c) if c.is_ascii_digit() => {
                let digits = self.take_while(|c| c.is_ascii_digit());
                let value = if negative { format!("-{digits}").parse() } else { digits.parse() };
                value.map(Dim::constant).map_err(|_| DimParseError {
                    position: start,
                    reason: "the integer does not fit 64 bits".to_string(),
                })
            }
            Some('"') => self.quoted(),
            Some('(') => {
                self.take('(');
                let inner = self.sum()?;
                if !self.take(')') {
                    return Err(self.error("expected `)`"));
                }
                // `product` negates what is not constant.
                Ok(if negative && inner.as_constant().is_some() { inner.scale(-1) } else { inner })
            }
            Some(c) if starts_name(c) => {
                let name = self.take_while(continues_name);
                let value = self.named(name)?;
                Ok(if negative && value.as_constant().is_some() { value.scale(-1) } else { value })
            }
            _ => Err(self.error("expected a size")),
        }
    }

    fn quoted(&mut self) -> Result<Dim, DimParseError> {
        let mut stream = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        match stream.next() {
            Some(Ok(name)) => {
                self.position += stream.byte_offset();
                Ok(Dim::symbol(Symbol::new(&name)))
            }
            _ => Err(self.error("the quoted name does not end")),
        }
    }

    fn named(&mut self, name: &str) -> Result<Dim, DimParseError> {
        if !self.rest().starts_with('(') {
            return Ok(if name == "overflow" { Dim::overflow() } else { Dim::symbol(Symbol::new(name)) });
        }
        self.take('(');
        let a = self.sum()?;
        if !self.take(',') {
            return Err(self.error("expected `,`"));
        }
        let b = self.sum()?;
        if !self.take(')') {
            return Err(self.error("expected `)`"));
        }
        match name {
            "floordiv" => Ok(a.floor_div(&b)),
            "mod" => Ok(a.modulo(&b)),
            "min" => Ok(a.min(&b)),
            "max" => Ok(a.max(&b)),
            "bcast" => Ok(a.broadcast(&b)),
            "mul" => Ok(a.mul(&b)),
            _ => Err(self.error("unknown function of sizes")),
        }
    }
}
