//! JSON as `json.dumps(value, ensure_ascii=False)` of Python writes it: what `tojson` means in chat templates.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Bytes that one value may become.
const MAX_BYTES: usize = 16 << 20;
const MAX_DEPTH: usize = 64;

/// How it is written.
struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
    ascii: bool,
}

/// The filter `tojson`.
pub(super) fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none() && !indent.is_undefined()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
    };
    let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut out = String::new();
    Style { indent, item, key, sort, ascii }.write(value, 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH || out.len() > MAX_BYTES {
            return Err(Error::new(ErrorKind::InvalidOperation, "the value is too large for tojson"));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                let entries = keys.into_iter().map(|key| Ok((Some(key.clone()), value.get_item(&key)?)));
                self.write_all(entries, '{', '}', depth, out)?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.write_all(value.try_iter()?.map(|value| Ok((None, value))), '[', ']', depth, out)?;
            }
            _ => self.write_string(&value.to_string(), out),
        }
        Ok(())
    }

    fn write_all(
        &self,
        entries: impl Iterator<Item = Result<(Option<Value>, Value), Error>>,
        open: char,
        close: char,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        out.push(open);
        let mut empty = true;
        for entry in entries {
            let (key, value) = entry?;
            if !empty {
                out.push_str(&self.item);
            }
            empty = false;
            self.line(depth + 1, out);
            if let Some(key) = key {
                self.write_string(&key.to_string(), out);
                out.push_str(&self.key);
            }
            self.write(&value, depth + 1, out)?;
        }
        if !empty {
            self.line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
