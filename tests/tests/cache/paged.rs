//! Runs `decode` on the evaluator over pages, as an engine would.

use std::collections::BTreeMap;

use lathe_ir::{EvaluateOptions, FunctionId, Module};
use lathe_tensor::Tensor;

/// Pages of each state.
const POOL: usize = 24;
/// Pages of one sequence.
const PAGES: usize = 4;
/// Tokens of a page.
const TOKENS: usize = 64;

/// The new tokens of a sequence, and how many it has already.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    pub sequence: usize,
    pub past: usize,
    pub tokens: &'a [i64],
}

/// `decode` of a module with its states.
pub struct Paged {
    module: Module,
    decode: FunctionId,
    states: Vec<Tensor>,
    /// Pages of the encoder's keys and values, and the length of each sequence's.
    cross: Vec<Tensor>,
    sources: BTreeMap<usize, usize>,
}

impl Paged {
    /// `None` where the module has no `decode`.
    pub fn new(module: &Module) -> Option<Self> {
        let decode = module.function_named("decode")?;
        let states = blank(module, decode, "kv.");
        let cross = blank(module, decode, "cross.");
        Some(Self { module: module.clone(), decode, states, cross, sources: BTreeMap::new() })
    }

    /// Fills the pages of a sequence with what the encoder makes of its source, `length` places.
    pub fn encode(
        &mut self,
        sequence: usize,
        length: usize,
        source: &[(&str, Tensor)],
    ) -> Result<(), String> {
        let encode = self.module.function_named("encode").ok_or("no `encode`")?;
        let body = self.module.function(encode);
        let part = Part { sequence, past: 0, tokens: &vec![0; length] };
        let mut cross = self.cross.iter();
        let mut inputs = Vec::new();
        for &input in body.inputs() {
            let name = body.value(input).name.as_deref().unwrap_or("");
            inputs.push(match name {
                "block_table.cross" => {
                    Tensor::from_slice(&table(std::slice::from_ref(&part), None), &[1, PAGES])
                        .expect("a table")
                }
                name if name.starts_with("cross.") => cross.next().ok_or("no state")?.clone(),
                name => {
                    let given = source.iter().find(|(given, _)| *given == name);
                    given.ok_or_else(|| format!("no source `{name}`"))?.1.clone()
                }
            });
        }
        self.cross = lathe_ir::evaluate(&self.module, encode, &inputs, &EvaluateOptions::default())
            .map_err(|error| error.to_string())?;
        let places = self.cross.pop().and_then(|places| places.to_slice::<i64>().ok()?.first().copied());
        if places != Some(length as i64) {
            return Err(format!("{places:?} places, expected {length}"));
        }
        self.sources.insert(sequence, length);
        Ok(())
    }

    /// The names of the inputs.
    pub fn inputs(&self) -> Vec<String> {
        let body = self.module.function(self.decode);
        body.inputs().iter().map(|&input| body.value(input).name.clone().unwrap_or_default()).collect()
    }

    /// One call; the logits of every row.
    pub fn call(&mut self, parts: &[Part<'_>]) -> Result<Vec<Vec<f32>>, String> {
        let rows: usize = parts.iter().map(|part| part.tokens.len()).sum();
        let tokens: Vec<i64> = parts.iter().flat_map(|part| part.tokens.to_vec()).collect();
        let position: Vec<i64> = parts
            .iter()
            .flat_map(|part| (part.past..part.past + part.tokens.len()).map(|place| place as i64))
            .collect();
        let mut seq_start = vec![0i64];
        parts
            .iter()
            .for_each(|part| seq_start.push(seq_start[seq_start.len() - 1] + part.tokens.len() as i64));
        let lengths: Vec<i64> = parts.iter().map(|part| (part.past + part.tokens.len()) as i64).collect();
        let every: Vec<i64> = (0..rows as i64).collect();
        let tensor = |values: &[i64], shape: &[usize]| Tensor::from_slice(values, shape).expect("an input");
        let sources: Vec<usize> =
            parts.iter().map(|part| self.sources.get(&part.sequence).copied().unwrap_or(0)).collect();
        let source_rows: Vec<i64> = parts
            .iter()
            .zip(&sources)
            .flat_map(|(part, &length)| vec![length as i64 - 1; part.tokens.len()])
            .collect();
        let (mut states, mut cross) = (self.states.iter(), self.cross.iter());
        let mut inputs = Vec::new();
        for name in self.inputs() {
            inputs.push(match name.as_str() {
                "tokens" => tensor(&tokens, &[1, rows]),
                "position" => tensor(&position, &[1, rows]),
                "seq_start" => tensor(&seq_start, &[parts.len() + 1]),
                "context_len" => tensor(&lengths, &[parts.len()]),
                "logit_rows" => tensor(&every, &[rows]),
                "cross_position" => tensor(&source_rows, &[1, rows]),
                "cross_len" => {
                    let lengths: Vec<i64> = sources.iter().map(|&length| length as i64).collect();
                    tensor(&lengths, &[parts.len()])
                }
                "block_table.cross" => {
                    let tokens: Vec<_> = sources.iter().map(|&length| vec![0; length]).collect();
                    let parts = parts.iter().zip(&tokens);
                    let parts: Vec<_> =
                        parts.map(|(part, tokens)| Part { past: 0, tokens, ..*part }).collect();
                    tensor(&table(&parts, None), &[parts.len(), PAGES])
                }
                name if name.starts_with("cross.") => cross.next().expect("a state").clone(),
                name if name.starts_with("block_table") => {
                    let window = name.strip_prefix("block_table.w").and_then(|window| window.parse().ok());
                    tensor(&table(parts, window), &[parts.len(), PAGES])
                }
                name if name.starts_with("longer.") => {
                    let boundary: i64 = name["longer.".len()..].parse().map_err(|_| name.to_string())?;
                    Tensor::from_bools(&[lengths.iter().any(|&length| length > boundary)], &[])
                        .expect("a bool")
                }
                name if name.starts_with("kv.") => states.next().expect("a state").clone(),
                name => return Err(format!("input `{name}` is not known")),
            });
        }
        let outputs = lathe_ir::evaluate(&self.module, self.decode, &inputs, &EvaluateOptions::default())
            .map_err(|error| error.to_string())?;
        let (logits, states) = outputs.split_first().ok_or("no outputs")?;
        self.states = states.to_vec();
        if logits.rank() != 2 || logits.shape()[0] != rows {
            return Err(format!("logits are {:?}", logits.shape()));
        }
        let cells = logits.to_slice::<f32>().map_err(|error| error.to_string())?;
        Ok(cells.chunks(logits.shape()[1]).map(<[f32]>::to_vec).collect())
    }
}

/// Pages of which nothing is written yet: what is read of them would spread.
fn blank(module: &Module, function: FunctionId, prefix: &str) -> Vec<Tensor> {
    let body = module.function(function);
    let states = body.inputs().iter().filter_map(|&input| {
        let elements = body.ty(input).dims.last()?.as_constant()?;
        let cells = vec![f32::NAN; POOL * elements as usize];
        let named = body.value(input).name.as_deref()?.starts_with(prefix);
        named.then(|| Tensor::from_slice(&cells, &[POOL, elements as usize]).expect("a state"))
    });
    states.collect()
}

/// Pages that lie anywhere; -1 where none is needed: not reached yet, or wholly before the window of every row.
fn table(parts: &[Part<'_>], window: Option<usize>) -> Vec<i64> {
    let mut table = Vec::new();
    for part in parts {
        let length = part.past + part.tokens.len();
        let first = window.map_or(0, |window| (part.past + 1).saturating_sub(window) / TOKENS);
        for page in 0..PAGES {
            let needed = page >= first && page * TOKENS < length;
            let place = (part.sequence * PAGES + page) * 7 % POOL;
            table.push(if needed { place as i64 } else { -1 });
        }
    }
    table
}
