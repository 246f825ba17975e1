//! Strings.

use lathe_ops::Op;
use lathe_ops::text::{Case, RegexFullMatch, StringConcat, StringNormalizer, StringSplit, TfIdf, Weighting};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

fn owned(words: Option<Vec<&str>>) -> Vec<String> {
    words.unwrap_or_default().into_iter().map(str::to_string).collect()
}

/// StringNormalizer-10. The locale is that of Unicode.
pub(crate) fn normalizer(node: &mut Node<'_, '_>) -> Outputs {
    node.attributes.ignore(&["locale"]);
    let words = [("NONE", Case::Keep), ("LOWER", Case::Lower), ("UPPER", Case::Upper)];
    let op = StringNormalizer {
        case: node.attributes.choice("case_change_action", &words)?,
        case_sensitive: node.attributes.flag("is_case_sensitive", false)?,
        stopwords: owned(node.attributes.strings("stopwords")?),
    };
    node.direct(Op::StringNormalizer(op))
}

/// StringSplit-20.
pub(crate) fn split(node: &mut Node<'_, '_>) -> Outputs {
    let limit = match node.attributes.int("maxsplit")? {
        None => None,
        Some(limit) => {
            Some(usize::try_from(limit).map_err(|_| Fault::bad(format!("attribute `maxsplit` is {limit}")))?)
        }
    };
    let delimiter = node.attributes.string("delimiter")?.unwrap_or("").to_string();
    node.direct(Op::StringSplit(StringSplit { delimiter, limit }))
}

/// StringConcat-20.
pub(crate) fn concat(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::StringConcat(StringConcat {}))
}

/// RegexFullMatch-20.
pub(crate) fn full_match(node: &mut Node<'_, '_>) -> Outputs {
    let pattern = node.attributes.string("pattern")?.unwrap_or("").to_string();
    node.direct(Op::RegexFullMatch(RegexFullMatch { pattern }))
}

/// TfIdfVectorizer-9.
pub(crate) fn tf_idf(node: &mut Node<'_, '_>) -> Outputs {
    let attributes = &node.attributes;
    if attributes.string("mode")?.is_none() {
        return Err(Fault::bad("attribute `mode` is missing"));
    }
    let modes = [("TF", Weighting::Count), ("IDF", Weighting::Weight), ("TFIDF", Weighting::Product)];
    let count = |name: &str, value: i64| {
        usize::try_from(value)
            .ok()
            .filter(|&value| value <= i32::MAX as usize)
            .ok_or_else(|| Fault::bad(format!("attribute `{name}` holds {value}")))
    };
    let counts = |name: &str| -> Result<Vec<usize>, Fault> {
        attributes.required_ints(name)?.iter().map(|&value| count(name, value)).collect()
    };
    let required = |name: &str| count(name, attributes.required_int(name)?);
    let op = TfIdf {
        mode: attributes.choice("mode", &modes)?,
        min_length: required("min_gram_length")?,
        max_length: required("max_gram_length")?,
        max_skip: required("max_skip_count")?,
        starts: counts("ngram_counts")?,
        columns: counts("ngram_indexes")?,
        weights: attributes.floats("weights")?.unwrap_or_default().iter().map(|&x| f64::from(x)).collect(),
        strings: owned(attributes.strings("pool_strings")?),
        integers: attributes.ints("pool_int64s")?.unwrap_or_default().to_vec(),
    };
    if !op.weights.is_empty() && op.weights.len() != op.columns.len() {
        return Err(Fault::bad("there is not one weight an n-gram"));
    }
    let x = node.input(0)?;
    if (node.dtype(x) == DType::String) == op.strings.is_empty()
        && !(op.strings.is_empty() && op.integers.is_empty())
    {
        return Err(Fault::bad(format!("its pool does not hold {}", node.dtype(x))));
    }
    Ok(vec![node.add(Op::TfIdf(op), &[x])?])
}
