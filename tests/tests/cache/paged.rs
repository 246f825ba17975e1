//! Runs `decode` on the evaluator over pages, as an engine would.

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
}

impl Paged {
    /// `None` where the module has no `decode`.
    pub fn new(module: &Module) -> Option<Self> {
        let decode = module.function_named("decode")?;
        let body = module.function(decode);
        let states = body.inputs().iter().filter_map(|&input| {
            let name = body.value(input).name.as_deref()?;
            let elements = body.ty(input).dims.last()?.as_constant()?;
            // What is not written yet must not be read: it would spread.
            let cells = vec![f32::NAN; POOL * elements as usize];
            name.starts_with("kv.")
                .then(|| Tensor::from_slice(&cells, &[POOL, elements as usize]).expect("a state"))
        });
        let states = states.collect();
        Some(Self { module: module.clone(), decode, states })
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
        let mut states = self.states.iter();
        let mut inputs = Vec::new();
        for name in self.inputs() {
            inputs.push(match name.as_str() {
                "tokens" => tensor(&tokens, &[1, rows]),
                "position" => tensor(&position, &[1, rows]),
                "seq_start" => tensor(&seq_start, &[parts.len() + 1]),
                "context_len" => tensor(&lengths, &[parts.len()]),
                "logit_rows" => tensor(&every, &[rows]),
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
