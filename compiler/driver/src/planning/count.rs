//! Counting in the graph of a model without weights.

use lathe_import::Outline;
use lathe_ir::{Dim, Function, Node, Operation, Source, ValueId};
use lathe_ops::Op;

use super::{CacheLayer, ExpertLayer, Parameters, Requirements, Unit};

/// Sizes of a picture where a model takes any.
const PICTURE: i64 = 224;

/// Elements of all weights.
pub(super) fn parameters(outline: &Outline) -> u64 {
    counted(outline, |counter| counter.parameters())
}

/// Counts everything else in `main`, for one sequence of one token, or for one picture.
pub(super) fn requirements(outline: &Outline, parameters: u64) -> Requirements {
    counted(outline, |counter| counter.count(parameters))
}

fn counted<T>(outline: &Outline, count: impl Fn(&Counter<'_>) -> T) -> T {
    let empty = Function::new("main");
    let function = outline.module.main().map_or(&empty, |main| outline.module.function(main));
    count(&Counter { outline, function })
}

struct Counter<'a> {
    outline: &'a Outline,
    function: &'a Function,
}

impl Counter<'_> {
    fn count(&self, total: u64) -> Requirements {
        let mut requirements = Requirements {
            family: self.outline.family.clone(),
            parameters: Parameters::default(),
            weight_element_bytes: self.outline.weight_element_bytes,
            unit: self.unit(),
            weight_flops: 0,
            other_flops: 0,
            cache: Vec::new(),
            source_cache: Vec::new(),
            experts: Vec::new(),
            native_context: self.outline.context,
            activation_row_bytes: 0,
        };
        // In the order in which they run: the cache is listed by layers.
        for id in self.function.topological_order().unwrap_or_default() {
            if let Some(node) = self.function.node(id) {
                self.node(node, &mut requirements);
            }
        }
        let experts = &requirements.experts;
        let sum = |f: &dyn Fn(&ExpertLayer) -> u64| experts.iter().map(f).sum::<u64>();
        let (all, chosen) = (sum(&|e| e.experts * e.weights), sum(&|e| e.top_k * e.weights));
        let shared = total.saturating_sub(all);
        requirements.parameters =
            Parameters { total, active: shared + chosen, shared, per_expert: sum(&|e| e.weights) };
        requirements.activation_row_bytes = self.widest();
        requirements
    }

    /// A model that takes token ids works by tokens.
    fn unit(&self) -> Unit {
        let is_ids = |id: &&ValueId| {
            let name = self.function.value(**id).name.as_deref().unwrap_or_default();
            name.ends_with("input_ids")
        };
        match self.function.inputs().iter().find(is_ids) {
            Some(_) => Unit::Token,
            None => Unit::Picture,
        }
    }

    /// Elements of all weights, but the statistics of batch norms, which are not learned: inputs that stand for them, and named constants of floats.
    fn parameters(&self) -> u64 {
        let learned = |value: &&ValueId| {
            let name = self.function.value(**value).name.as_deref().unwrap_or_default();
            self.is_weight(**value) && !name.contains("running_")
        };
        let inputs = self.function.inputs().iter().filter(learned);
        let inputs: u64 = inputs.map(|value| self.elements(*value)).sum();
        let constants = self.outline.module.constants().map(|(_, constant)| constant);
        // Exporters name the numbers of an expression too.
        let constants = constants.filter(|constant| {
            constant.name.is_some() && constant.dtype().is_float() && !constant.shape.is_empty()
        });
        let elements = |shape: &[usize]| shape.iter().map(|&size| size as u64).product::<u64>();
        inputs + constants.map(|constant| elements(&constant.shape)).sum::<u64>()
    }

    fn is_weight(&self, value: ValueId) -> bool {
        let value = self.function.value(value);
        match value.source {
            // Passes merge and transpose constants, which have no names then.
            Source::Constant(_) => {
                value.ty.dtype.is_float() && (value.name.is_some() || value.ty.rank() >= 2)
            }
            Source::Input(_) => {
                value.name.as_deref().is_some_and(|name| name.starts_with(lathe_import::WEIGHT))
            }
            Source::Node(..) => false,
        }
    }

    /// Whether a value is a weight in another form: transposed, cast, a part of it.
    fn is_made_of_weights(&self, value: ValueId) -> bool {
        let mut value = value;
        // Chains of layout changes are short; a bound keeps odd graphs out.
        for _ in 0..16 {
            if self.is_weight(value) {
                return true;
            }
            let Some((_, node)) = self.function.producer(value) else { return false };
            let Operation::Op(op) = &node.operation else { return false };
            let layout = matches!(
                op,
                Op::Transpose(_)
                    | Op::Reshape(_)
                    | Op::Cast(_)
                    | Op::Slice(_)
                    | Op::Concat(_)
                    | Op::Unsqueeze(_)
            );
            match node.inputs.first() {
                Some(Some(input)) if layout => value = *input,
                _ => return false,
            }
        }
        false
    }

    /// Sizes with one of everything that the caller chooses, and pictures of a usual size.
    fn size(&self, dim: &Dim) -> u64 {
        let bind = |symbol: &lathe_ir::Symbol| {
            Some(match symbol.name() {
                "height" | "width" => self.outline.picture.map_or(PICTURE, |size| size as i64),
                _ => 1,
            })
        };
        dim.evaluate(&bind).and_then(|size| u64::try_from(size).ok()).unwrap_or(1)
    }

    fn sizes(&self, value: ValueId) -> Vec<u64> {
        self.function.ty(value).dims.iter().map(|dim| self.size(dim)).collect()
    }

    fn elements(&self, value: ValueId) -> u64 {
        self.sizes(value).iter().fold(1u64, |count, size| count.saturating_mul(*size))
    }

    fn node(&self, node: &Node, into: &mut Requirements) {
        let Operation::Op(op) = &node.operation else { return };
        let input = |index: usize| node.inputs.get(index).copied().flatten();
        let output = node.outputs.first().map_or(0, |value| self.elements(*value));
        match (op, input(0), input(1), input(2)) {
            (Op::MatMul(_) | Op::Linear(_), Some(a), Some(b), _) => {
                let inner = self.sizes(a).last().copied().unwrap_or(1);
                let flops = 2 * output * inner;
                match self.is_made_of_weights(a) || self.is_made_of_weights(b) {
                    true => into.weight_flops += flops,
                    false => into.other_flops += flops,
                }
            }
            (Op::Conv(_), Some(_), Some(w), _) => {
                let window: u64 = self.sizes(w).iter().skip(1).product();
                into.weight_flops += 2 * output * window;
            }
            (Op::Moe(moe), Some(x), Some(_), Some(w_in)) => {
                let weights = self.elements(w_in) + input(3).map_or(0, |w| self.elements(w));
                let matrices = weights / (moe.experts as u64).max(1);
                let biases: u64 = (5..7).filter_map(input).map(|bias| self.elements(bias)).sum();
                let tokens = self.elements(x) / self.sizes(x).last().copied().unwrap_or(1).max(1);
                into.weight_flops += 2 * tokens * moe.top_k as u64 * matrices;
                into.experts.push(ExpertLayer {
                    experts: moe.experts as u64,
                    top_k: moe.top_k as u64,
                    weights: matrices + biases / (moe.experts as u64).max(1),
                    shared: moe.shared_experts as u64,
                });
            }
            (Op::Attention(attention), Some(q), Some(k), Some(v)) => {
                let (q, k_sizes, v) = (self.sizes(q), self.sizes(k), self.sizes(v));
                let [batch, heads, rows, key_dim] = q[..] else { return };
                let ([_, kv_heads, keys, _], [.., value_dim]) = (&k_sizes[..], &v[..]) else { return };
                into.other_flops += 2 * batch * heads * rows * keys * (key_dim + value_dim);
                let window = attention.left_window.filter(|_| attention.causal).map(|left| left as u64 + 1);
                let (kv_heads, value_dim, latent) = (*kv_heads, *value_dim, self.latent(node));
                let layer = CacheLayer { heads, kv_heads, key_dim, value_dim, latent, window };
                if attention.causal {
                    into.cache.push(layer);
                } else if self.is_cross(node) {
                    into.source_cache.push(layer);
                }
            }
            _ => {}
        }
    }

    /// Elements that keys and values of all heads are made of, where they are kept as such: not for exported graphs.
    fn latent(&self, node: &Node) -> Option<u64> {
        if self.outline.exported {
            return None;
        }
        let module = &self.outline.module;
        let context = lathe_passes::Context { module, function: module.main()? };
        lathe_passes::latent::Latent::of(context, node).map(|latent| latent.width() as u64)
    }

    /// Whether queries and keys have lengths of their own.
    fn is_cross(&self, node: &Node) -> bool {
        let length = |index: usize| {
            let value = node.inputs.get(index).copied().flatten()?;
            self.function.ty(value).dims.get(2)
        };
        length(0) != length(1)
    }

    /// Bytes of live values of one row at the widest place: weights and what has the size of one do not count.
    fn widest(&self) -> u64 {
        let Some(order) = self.function.topological_order() else { return 0 };
        let mut last = vec![usize::MAX; self.function.value_count()];
        for (step, id) in order.iter().enumerate() {
            for input in self.function.node(*id).into_iter().flat_map(|node| node.inputs.iter().flatten()) {
                last[input.index()] = step;
            }
        }
        let bytes = |value: ValueId| match self.is_made_of_weights(value) {
            true => 0,
            false => {
                let count = usize::try_from(self.elements(value)).unwrap_or(usize::MAX);
                self.function.ty(value).dtype.storage_bytes(count).unwrap_or(usize::MAX) as u64
            }
        };
        let (mut live, mut peak) = (0u64, 0u64);
        for (step, id) in order.iter().enumerate() {
            let Some(node) = self.function.node(*id) else { continue };
            let view = matches!(
                &node.operation,
                Operation::Op(Op::Reshape(_) | Op::Transpose(_) | Op::Unsqueeze(_))
            );
            for output in node.outputs.iter().filter(|_| !view) {
                live = live.saturating_add(bytes(*output));
            }
            peak = peak.max(live);
            let mut inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
            inputs.sort_unstable();
            inputs.dedup();
            for input in inputs {
                let made = self.function.producer(input).is_some();
                if made && last[input.index()] == step && !self.function.is_output(input) {
                    live = live.saturating_sub(bytes(input));
                }
            }
        }
        peak
    }
}
