//! Sizes in bytes, as people write them: `6GiB`, `512MB`, `1073741824`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, *factor)));
        let (number, factor) = unit.unwrap_or((text, 1));
        let number: f64 =
            number.trim().parse().map_err(|_| format!("`{text}` is not a size such as 6GiB"))?;
        let bytes = number * factor as f64;
        if !(0.0..9.2e18).contains(&bytes) {
            return Err(format!("`{text}` is out of range"));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[..4].iter().rev().find(|(_, factor)| self.0 >= *factor) {
            Some((name, factor)) => {
                let digits = f.precision().unwrap_or(1);
                write!(f, "{:.digits$} {name}", self.0 as f64 / *factor as f64)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("6GiB", 6 << 30), ("512MB", 512_000_000), ("17", 17), ("1.5KiB", 1536), ("3B", 3)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "6 gigs", "1e99TiB", "NaN"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
