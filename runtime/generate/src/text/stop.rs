//! Stop strings in streamed text.

/// Cuts a stream of text before the first of some strings. Text that may be the beginning of one is held back.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// A stream that ends before any of `stops`; empty ones do not count.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, ..Self::default() }
    }

    /// Whether a stop string has come.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text that may be given out after `text` has come.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(place) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(place);
            return std::mem::take(&mut self.held);
        }
        let begins = |place: &usize| {
            let rest = &self.held[*place..];
            self.stops.iter().any(|stop| stop.starts_with(rest))
        };
        let places = self.held.char_indices().map(|(place, _)| place);
        let keep = places.into_iter().find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, where no stop string came of it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], texts: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut stream = StopStrings::new(&stops);
        let mut out: Vec<String> = texts.iter().map(|text| stream.push(text)).collect();
        out.push(stream.finish());
        (out, stream.stopped())
    }

    #[test]
    fn text_ends_before_the_first_stop_string() {
        let (out, stopped) = run(&["\n\n", "END"], &["one\n", "two E", "N", "D three"]);
        assert_eq!(out, ["one", "\ntwo ", "", "", ""]);
        assert!(stopped);
        assert_eq!(run(&["b", "ab"], &["xabx"]).0.concat(), "x");
    }

    #[test]
    fn beginnings_that_come_to_nothing_are_given_out() {
        let (out, stopped) = run(&["aab"], &["a", "a", "a", "c", "aa"]);
        assert_eq!(out, ["", "", "a", "aac", "", "aa"]);
        assert!(!stopped);
        assert_eq!(run(&[""], &["x", "é"]).0, ["x", "é", ""]);
    }
}
