//! Strings. Elements are bytes; those that are not UTF-8 are read with replacement characters.

use std::borrow::Cow;
use std::collections::HashMap;

use lathe_tensor::{DType, Tensor};
use regex::RegexBuilder;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::cast::{Number, load};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, broadcast_strides};

/// Attributes of [`crate::Op::StringNormalizer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StringNormalizer {
    /// What happens to letters.
    pub case: Case,
    /// Stop words are compared as they are, else after the change of case.
    pub case_sensitive: bool,
    /// Words that are taken out.
    pub stopwords: Vec<String>,
}

/// What happens to letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Case {
    Keep,
    Lower,
    Upper,
}

/// Attributes of [`crate::Op::StringSplit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StringSplit {
    /// What stands between parts; runs of white space where empty.
    pub delimiter: String,
    /// Most cuts of an element.
    pub limit: Option<usize>,
}

/// [`crate::Op::StringConcat`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StringConcat {}

/// Attributes of [`crate::Op::RegexFullMatch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegexFullMatch {
    /// The expression, in the syntax of RE2.
    pub pattern: String,
}

/// Attributes of [`crate::Op::TfIdf`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TfIdf {
    /// How counts become weights.
    pub mode: Weighting,
    /// Shortest n-grams that are counted.
    pub min_length: usize,
    /// Longest n-grams that are counted.
    pub max_length: usize,
    /// Most elements skipped between those of an n-gram.
    pub max_skip: usize,
    /// Where the n-grams of each length begin in the pool.
    pub starts: Vec<usize>,
    /// The column of each n-gram.
    pub columns: Vec<usize>,
    /// The weight of each n-gram; empty for 1.
    pub weights: Vec<f64>,
    /// The n-grams one after another, of strings, or else of integers.
    pub strings: Vec<String>,
    /// The n-grams of integers.
    pub integers: Vec<i64>,
}

/// How counts become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// The count.
    Count,
    /// The weight, where there is one at least.
    Weight,
    /// Count times weight.
    Product,
}

fn strings<'x>(cx: &Context<'_>, x: &'x Tensor) -> Result<&'x [Vec<u8>], EvalError> {
    x.strings().map_err(|_| cx.dtype("x", x.dtype(), "string"))
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A tensor of texts, within the budget.
fn tensor(cx: &Context<'_>, texts: Vec<Vec<u8>>, shape: &[usize]) -> Result<Tensor, EvalError> {
    let bytes = texts.iter().fold(0usize, |sum, text| sum.saturating_add(text.len() + size_of::<Vec<u8>>()));
    cx.spend(bytes)?;
    Tensor::from_strings(texts, shape).map_err(|source| cx.tensor(source))
}

impl Evaluate for StringNormalizer {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// `x` is `[words]` or `[1, words]`; words that are stop words are left out. Where none is left there is one empty string
    /// (ONNX StringNormalizer-10).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let mut shape = x.shape().to_vec();
        if !matches!(shape[..], [_] | [1, _]) {
            return Err(cx.shape("x is neither [words] nor [1, words]"));
        }
        let changed = |text: &str| match self.case {
            Case::Keep => text.to_string(),
            Case::Lower => text.to_lowercase(),
            Case::Upper => text.to_uppercase(),
        };
        let stops: Vec<String> = match self.case_sensitive {
            true => self.stopwords.clone(),
            false => self.stopwords.iter().map(|word| changed(word)).collect(),
        };
        let mut kept = Vec::new();
        for word in strings(cx, x)? {
            cx.work(word.len() + stops.len())?;
            let (word, after) = (text(word), changed(&text(word)));
            let compared = if self.case_sensitive { word.as_ref() } else { after.as_str() };
            if !stops.iter().any(|stop| stop == compared) {
                kept.push(after.into_bytes());
            }
        }
        if kept.is_empty() {
            kept.push(Vec::new());
        }
        if let Some(last) = shape.last_mut() {
            *last = kept.len();
        }
        Ok(vec![tensor(cx, kept, &shape)?])
    }
}

impl StringSplit {
    fn parts(&self, whole: &str) -> Vec<Vec<u8>> {
        let limit = self.limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
        let owned = |part: &str| part.as_bytes().to_vec();
        if !self.delimiter.is_empty() {
            return whole.splitn(limit, &self.delimiter).map(owned).collect();
        }
        let (mut parts, mut rest) = (Vec::new(), whole.trim_start());
        while !rest.is_empty() {
            let end = if parts.len() + 1 >= limit { None } else { rest.find(char::is_whitespace) };
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            parts.push(owned(part));
            rest = after.trim_start();
        }
        parts
    }
}

impl Evaluate for StringSplit {
    fn arity(&self) -> Arity {
        Arity::of(1, 1).outputs(1, 2)
    }

    /// Outputs: the parts `[..., most parts of any element]`, filled up with empty strings, and how many each element has
    /// (ONNX StringSplit-20).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let mut split = Vec::new();
        for element in strings(cx, x)? {
            cx.work(element.len() + 1)?;
            let parts = self.parts(&text(element));
            cx.spend(parts.len().saturating_mul(2 * size_of::<Vec<u8>>()))?;
            split.push(parts);
        }
        let counts: Vec<i64> = split.iter().map(|parts| parts.len() as i64).collect();
        let most = split.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [x.shape(), &[most]].concat();
        let total = cx.count(&shape)?;
        cx.spend(total.saturating_mul(size_of::<Vec<u8>>()))?;
        let mut texts = Vec::with_capacity(total);
        for mut parts in split {
            parts.resize(most, Vec::new());
            texts.extend(parts);
        }
        Ok(vec![tensor(cx, texts, &shape)?, cx.tensor_of(&counts, x.shape())?])
    }
}

impl Evaluate for StringConcat {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// `a` followed by `b`, broadcast (ONNX StringConcat-20).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let shape = cx.broadcast(&[a.shape(), b.shape()])?;
        let count = cx.count(&shape)?;
        cx.spend(count.saturating_mul(size_of::<Vec<u8>>()))?;
        let steps = [broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape)];
        let (left, right) = (strings(cx, a)?, strings(cx, b)?);
        let mut texts = Vec::with_capacity(count);
        for [i, j] in Walk::new(&shape, steps, [0, 0]) {
            cx.step()?;
            cx.spend(left[i].len() + right[j].len())?;
            texts.push([left[i].as_slice(), &right[j]].concat());
        }
        Ok(vec![tensor(cx, texts, &shape)?])
    }
}

impl Evaluate for RegexFullMatch {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// Whether the whole of each element matches (ONNX RegexFullMatch-20); time is linear in the text.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let whole = format!("^(?:{})$", self.pattern);
        let expression = RegexBuilder::new(&whole).size_limit(1 << 22).dfa_size_limit(1 << 22).build();
        let expression = expression.map_err(|error| {
            // The message draws the place over several lines; the last one says what is wrong.
            let message = error.to_string();
            cx.bad(format!("the pattern {:?}: {}", self.pattern, message.lines().last().unwrap_or_default()))
        })?;
        let mut bits = Vec::with_capacity(x.len());
        for element in strings(cx, x)? {
            cx.work(element.len().saturating_mul(16).saturating_add(1))?;
            bits.push(expression.is_match(&text(element)));
        }
        Ok(vec![cx.build_bools(x.shape(), bits.into_iter())?])
    }
}

/// A node of the trie of n-grams: the n-gram that ends here, and where each next element leads.
#[derive(Default)]
struct Node {
    gram: Option<usize>,
    next: HashMap<u64, usize>,
}

impl TfIdf {
    /// The trie of the n-grams that are counted; elements are named by `key`.
    fn trie(&self, cx: &Context<'_>, pool: &[u64]) -> Result<Vec<Node>, EvalError> {
        let mut nodes = vec![Node::default()];
        let mut gram = 0;
        for (index, &start) in self.starts.iter().enumerate() {
            let (length, end) = (index + 1, self.starts.get(index + 1).copied().unwrap_or(pool.len()));
            let grams = pool.get(start..end).ok_or_else(|| cx.bad("the n-grams lie outside the pool"))?;
            for elements in grams.chunks_exact(length) {
                if (self.min_length..=self.max_length).contains(&length) {
                    let mut at = 0;
                    for element in elements {
                        let fresh = nodes.len();
                        at = *nodes[at].next.entry(*element).or_insert(fresh);
                        if at == fresh {
                            cx.spend(2 * size_of::<Node>())?;
                            nodes.push(Node::default());
                        }
                    }
                    nodes[at].gram = Some(gram);
                }
                gram += 1;
            }
        }
        match gram <= self.columns.len() {
            true => Ok(nodes),
            false => Err(cx.bad(format!("{gram} n-grams for {} columns", self.columns.len()))),
        }
    }

    fn count(
        &self,
        cx: &Context<'_>,
        trie: &[Node],
        row: &[Option<u64>],
        counts: &mut [f64],
    ) -> Result<(), EvalError> {
        for skip in 0..=self.max_skip.min(row.len()) {
            // Single elements do not depend on what is skipped: they are counted once.
            let least = if skip == 0 { self.min_length } else { self.min_length.max(2) };
            for start in 0..row.len() {
                let mut at = 0;
                for (length, element) in row[start..].iter().step_by(skip + 1).enumerate() {
                    cx.step()?;
                    let Some(&next) = element.and_then(|element| trie[at].next.get(&element)) else { break };
                    at = next;
                    if length + 1 >= least
                        && let Some(gram) = trie[at].gram
                    {
                        counts[self.columns[gram]] += 1.0;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Evaluate for TfIdf {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// `x` is `[elements]` or `[batch, elements]` of strings or integers; the result is f32 with a column for each n-gram
    /// (ONNX TfIdfVectorizer-9).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let width = self.columns.iter().max().map_or(Some(0), |last| last.checked_add(1));
        let width = width.ok_or_else(|| cx.too_large(None))?;
        let (rows, size) = match *x.shape() {
            [] => (1, 1),
            [size] => (1, size),
            [rows, size] => (rows, size),
            _ => return Err(cx.shape("x has more than two axes")),
        };
        let mut names: HashMap<&[u8], u64> = HashMap::new();
        let pool: Vec<u64> = match self.strings.is_empty() {
            true => self.integers.iter().map(|&element| element as u64).collect(),
            false => {
                let mut pool = Vec::with_capacity(self.strings.len());
                for element in &self.strings {
                    let fresh = names.len() as u64;
                    let id = *names.entry(element.as_bytes()).or_insert(fresh);
                    pool.push(id);
                }
                pool
            }
        };
        cx.spend(x.len().saturating_mul(size_of::<Option<u64>>()))?;
        let elements: Vec<Option<u64>> = match x.dtype() {
            DType::String => strings(cx, x)?.iter().map(|text| names.get(text.as_slice()).copied()).collect(),
            DType::I32 | DType::I64 if self.strings.is_empty() => load(cx, x)?
                .map(|number| match number {
                    Number::Integer(integer) => Some(integer as u64),
                    Number::Float(_) => None,
                })
                .collect(),
            found => return Err(cx.dtype("x", found, "what the n-grams are of")),
        };
        let trie = self.trie(cx, &pool)?;
        let shape = if x.rank() == 2 { vec![rows, width] } else { vec![width] };
        let mut counts = cx.filled(cx.count(&[rows, width])?, 0.0)?;
        if size > 0 && width > 0 {
            for (row, counts) in elements.chunks_exact(size).zip(counts.chunks_exact_mut(width)) {
                self.count(cx, &trie, row, counts)?;
            }
        }
        let mut by_column = cx.filled(width, 1.0)?;
        for (&column, &weight) in self.columns.iter().zip(&self.weights) {
            by_column[column] = weight;
        }
        for (index, count) in counts.iter_mut().enumerate() {
            let weight = by_column[index % width];
            *count = match self.mode {
                Weighting::Count => *count,
                Weighting::Weight if *count > 0.0 => weight,
                Weighting::Weight => 0.0,
                Weighting::Product => *count * weight,
            };
        }
        Ok(vec![cx.rounded(DType::F32, &shape, &counts)?])
    }
}
