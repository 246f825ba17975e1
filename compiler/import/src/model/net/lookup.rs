//! Which weights of the file are meant, which are missing and which are unknown.

use std::fmt::Display;

use lathe_tensor::{DType, Encoding};

use super::Net;
use crate::error::{Fault, quote};
use crate::model::Weight;

/// How many names a message lists.
const LISTED: usize = 20;

impl Net<'_> {
    /// Names of a weight in the file: as it is, and as the bare model has it.
    pub(super) fn spellings(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_string()];
        match name.strip_prefix(self.base) {
            Some(bare) if !self.base.is_empty() => names.push(bare.to_string()),
            _ => {}
        }
        // Norms of checkpoints that came from TensorFlow.
        for (end, old) in [(".weight", ".gamma"), (".bias", ".beta")] {
            let old = names.iter().filter_map(|name| Some(format!("{}{old}", name.strip_suffix(end)?)));
            let old: Vec<String> = old.collect();
            names.extend(old);
        }
        for (from, to) in &self.renames {
            if let Some(rest) = name.strip_prefix(from.as_str()) {
                names.push(format!("{to}{rest}"));
            }
        }
        names
    }

    /// Names that begin with `from` may begin with `to` in the file.
    pub(crate) fn rename(&mut self, from: impl Display, to: impl Display) {
        self.renames.push((from.to_string(), to.to_string()));
    }

    /// Whether the file has a weight.
    pub(crate) fn has(&self, name: &str) -> Result<bool, Fault> {
        Ok(self.found(name)?.is_some())
    }

    /// The first spelling of a weight that the file has.
    pub(super) fn found(&self, name: &str) -> Result<Option<Weight>, Fault> {
        for spelling in self.spellings(name) {
            if let Some(weight) = self.weights.weight(&spelling)? {
                return Ok(Some(weight));
            }
        }
        Ok(None)
    }

    /// Whether the file has a weight in quantised blocks.
    pub(super) fn is_quantised(&self, name: &str) -> Result<bool, Fault> {
        Ok(self.found(name)?.is_some_and(|weight| matches!(weight.encoding, Encoding::Blocked(_))))
    }

    /// The dtype in which the file has a weight.
    pub(super) fn stored_dtype(&self, name: &str) -> Result<Option<DType>, Fault> {
        Ok(self.found(name)?.map(|weight| weight.tensor.dtype()))
    }

    /// A weight as it is stored, which is then used. A missing one is noted, and `None`.
    pub(crate) fn stored(&mut self, name: &str) -> Result<Option<Weight>, Fault> {
        for spelling in self.spellings(name) {
            if let Some(weight) = self.weights.weight(&spelling)? {
                self.used.insert(spelling);
                return Ok(Some(weight));
            }
        }
        self.missing.push(name.to_string());
        Ok(None)
    }

    /// The name that the file has for a weight which is used.
    pub(crate) fn spelling(&self, name: &str) -> String {
        let used = self.spellings(name).into_iter().find(|spelling| self.used.contains(spelling));
        used.unwrap_or_else(|| name.to_string())
    }

    /// Marks weights that the network does not need as known.
    pub(crate) fn ignore(&mut self, what: impl Fn(&str) -> bool) {
        for name in self.weights.names() {
            if what(&name) {
                self.used.insert(name);
            }
        }
    }

    /// That every weight was there, and every weight of the file was used.
    ///
    /// # Errors
    /// Lists what is missing and what is unknown.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        let known = |name: &String| self.used.contains(name) || is_buffer(name);
        let unused: Vec<String> = self.weights.names().into_iter().filter(|name| !known(name)).collect();
        let mut parts = Vec::new();
        for (what, names) in [("weights are missing", &self.missing), ("unknown weights", &unused)] {
            if !names.is_empty() {
                let shown: Vec<String> = names.iter().take(LISTED).map(|name| quote(name)).collect();
                let more = if names.len() > LISTED { ", ..." } else { "" };
                parts.push(format!("{} {what}: {}{more}", names.len(), shown.join(", ")));
            }
        }
        match parts.is_empty() {
            true => Ok(()),
            false => Err(Fault::bad(parts.join("; "))),
        }
    }
}

/// Tables that old checkpoints hold although they follow from the configuration.
fn is_buffer(name: &str) -> bool {
    let ends = [
        ".rotary_emb.inv_freq",
        ".attn.masked_bias",
        ".attention.masked_bias",
        ".position_ids",
        ".attention.bias",
        ".attn.bias",
        ".num_batches_tracked",
        ".relative_position_index",
    ];
    ends.iter().any(|end| name.ends_with(end)) || name == "position_ids"
}
