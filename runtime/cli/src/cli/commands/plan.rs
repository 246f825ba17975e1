//! `lathe plan` and `lathe compare`: what models need, from their configurations alone.

use std::fmt::Write;
use std::path::Path;

use lathe_compiler::planning::{Requirements, Unit};
use serde_json::{Value, json};

use crate::Isa;
use crate::cli::args::Common;
use crate::cli::error::CliError;
use crate::cli::size::ByteSize;
use crate::cli::sizing::{CacheType, CompareArgs, PlanArgs, Sizing};
use crate::cli::{load, report};

/// Tokens of a prompt that are read at a time.
const CHUNK: u64 = 512;
/// Context where a model does not name its own.
const CONTEXT: u64 = 2048;

/// A model under one choice of context, batch and cache.
struct Plan {
    name: String,
    model: Requirements,
    context: u64,
    batch: u64,
    kv: CacheType,
}

impl Plan {
    fn of(common: &Common, path: &Path, sizing: &Sizing) -> Result<Self, CliError> {
        let options = load::import_options(common)?;
        let model = Requirements::of(path, &options)?;
        let context = sizing.context.or(model.native_context).unwrap_or(CONTEXT);
        let name = match path.file_name() {
            Some(name) if name != "config.json" => Path::new(name).with_extension("").display().to_string(),
            _ => path.parent().unwrap_or(path).display().to_string(),
        };
        Ok(Self { name, model, context, batch: sizing.batch, kv: sizing.kv })
    }

    fn kv_bytes(&self) -> f64 {
        self.batch as f64 * self.model.cache_bytes(self.context, self.kv.dtype())
    }

    fn kv_bytes_multi_head(&self) -> f64 {
        self.batch as f64 * self.model.cache_bytes_multi_head(self.context, self.kv.dtype())
    }

    fn activation_bytes(&self) -> f64 {
        self.model.activation_bytes(self.batch, CHUNK.min(self.context))
    }

    fn memory_bytes(&self) -> f64 {
        self.model.memory_bytes(self.batch, self.context, self.kv.dtype(), CHUNK)
    }

    /// Operations a unit: of a token with the whole context before it, of a picture with all there is.
    fn flops(&self) -> u64 {
        match self.model.unit {
            Unit::Token => self.model.weight_flops + self.model.attention_flops(self.context),
            Unit::Picture => self.model.weight_flops + self.model.other_flops,
        }
    }

    /// Tokens a second over all sequences if a step took only the time to read weights and cache at so many bytes a second.
    fn bound(&self, bytes_per_second: f64) -> Option<f64> {
        let bytes = self.model.step_weight_bytes(self.batch) + self.kv_bytes();
        (self.model.unit == Unit::Token && bytes > 0.0).then(|| self.batch as f64 * bytes_per_second / bytes)
    }

    /// What a user should know before trusting the figures.
    fn warning(&self) -> Option<String> {
        let native = self.model.native_context.filter(|native| *native < self.context)?;
        let factor = self.context as f64 / native as f64;
        Some(format!(
            "the model was made for {native} tokens: {} need `--rope-scaling` with `--rope-factor {factor:.1}` or more",
            self.context
        ))
    }

    fn json(&self, bytes_per_second: f64) -> Value {
        let model = &self.model;
        let parameters = &model.parameters;
        let experts = model.experts.first().map(|layer| {
            json!({
                "layers": model.experts.len(), "experts": layer.experts, "top_k": layer.top_k,
                "shared_experts": layer.shared, "expected_per_step": layer.expected(self.batch),
            })
        });
        json!({
            "name": self.name, "family": model.family,
            "unit": match model.unit { Unit::Token => "token", Unit::Picture => "picture" },
            "parameters": parameters.total, "active_parameters": parameters.active,
            "shared_parameters": parameters.shared, "expert_parameters": parameters.per_expert,
            "experts": experts,
            "weight_flops": model.weight_flops, "flops": self.flops(),
            "weight_bytes": model.weight_bytes(), "step_weight_bytes": model.step_weight_bytes(self.batch),
            "context": self.context, "native_context": model.native_context, "batch": self.batch, "kv": self.kv.name(),
            "kv_bytes_per_token": model.cache_bytes_per_token(self.kv.dtype()),
            "kv_bytes": self.kv_bytes(), "kv_bytes_multi_head": self.kv_bytes_multi_head(),
            "activation_bytes": self.activation_bytes(), "memory_bytes": self.memory_bytes(),
            "gbps": bytes_per_second / 1e9, "tokens_per_second_bound": self.bound(bytes_per_second),
            "warning": self.warning(),
        })
    }

    /// Names and figures for people.
    fn rows(&self, bytes_per_second: f64) -> Vec<(String, String)> {
        let model = &self.model;
        let parameters = &model.parameters;
        let per = match model.unit {
            Unit::Token => "token",
            Unit::Picture => "picture",
        };
        let mut rows = vec![("parameters".to_string(), count(parameters.total))];
        let mut row = |name: String, value: String| rows.push((name, value));
        let experts = match model.experts.first() {
            Some(layer) => {
                format!(
                    "{} of {}, {} each over all layers",
                    layer.top_k,
                    layer.experts,
                    count(parameters.per_expert)
                )
            }
            None => "-".to_string(),
        };
        row("active a token".to_string(), count(parameters.active));
        row("shared".to_string(), count(parameters.shared));
        row("experts".to_string(), experts);
        row(format!("weight GFLOP a {per}"), format!("{:.1}", model.weight_flops as f64 / 1e9));
        row(format!("GFLOP a {per}"), format!("{:.1}", self.flops() as f64 / 1e9));
        row("weights".to_string(), bytes(model.weight_bytes()));
        if model.unit == Unit::Token {
            let native = model.native_context.map_or("-".to_string(), |native| native.to_string());
            row("native context".to_string(), native);
            row(
                format!("{} cache a token", self.kv.name()),
                bytes(model.cache_bytes_per_token(self.kv.dtype())),
            );
            row(format!("cache at {} x {}", self.batch, self.context), bytes(self.kv_bytes()));
            row("had it been multi-head".to_string(), bytes(self.kv_bytes_multi_head()));
        }
        row("activations".to_string(), bytes(self.activation_bytes()));
        row("memory".to_string(), bytes(self.memory_bytes()));
        if let Some(bound) = self.bound(bytes_per_second) {
            row(format!("tokens/s at {:.0} GB/s, at most", bytes_per_second / 1e9), format!("{bound:.2}"));
        }
        rows
    }

    /// That the plan fits, where the user set a limit.
    fn check(&self, limit: u64) -> Result<(), CliError> {
        let (needed, allowed) = (self.memory_bytes(), limit as f64);
        if needed <= allowed {
            return Ok(());
        }
        let sum = format!(
            "{} = weights {} + cache {} ({} x {} tokens of {}) + activations {}",
            bytes(needed),
            bytes(self.model.weight_bytes()),
            bytes(self.kv_bytes()),
            self.batch,
            self.context,
            bytes(self.model.cache_bytes_per_token(self.kv.dtype())),
            bytes(self.activation_bytes()),
        );
        let fitting = self.model.largest_context(self.batch, allowed, self.kv.dtype(), CHUNK);
        let hint = match fitting.filter(|_| self.model.unit == Unit::Token && !self.model.cache.is_empty()) {
            Some(tokens) => format!("`--context {tokens}` would fit"),
            None => "no context fits: the weights alone are too large".to_string(),
        };
        Err(CliError::Input(format!(
            "{}: {sum} is more than `--max-memory` {}; {hint}",
            self.name,
            bytes(allowed)
        )))
    }
}

/// Runs `lathe plan`. The memory limit holds where it was given.
pub fn plan(common: &Common, args: &PlanArgs) -> Result<(), CliError> {
    let plan = Plan::of(common, &args.model, &args.sizing)?;
    if let Some(limit) = args.limit(common) {
        plan.check(limit)?;
    }
    let rate = bandwidth(common);
    if args.json.json {
        return report::print_json(&plan.json(rate));
    }
    let mut out = format!("{} ({})\n", plan.name, plan.model.family);
    for (name, value) in plan.rows(rate) {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{name:<34} {value}");
    }
    if let Some(warning) = plan.warning() {
        let _ = writeln!(out, "warning: {warning}");
    }
    report::print(&out)
}

/// Runs `lathe compare`.
pub fn compare(common: &Common, args: &CompareArgs) -> Result<(), CliError> {
    let plans: Vec<Plan> =
        args.models.iter().map(|path| Plan::of(common, path, &args.sizing)).collect::<Result<_, _>>()?;
    let rate = bandwidth(common);
    if args.json.json {
        let models: Vec<Value> = plans.iter().map(|plan| plan.json(rate)).collect();
        return report::print_json(&json!({ "models": models }));
    }
    report::print(&table(&plans, rate))
}

/// One column a model. A figure that a model does not have is `-`.
fn table(plans: &[Plan], rate: f64) -> String {
    let columns: Vec<Vec<(String, String)>> = plans.iter().map(|plan| plan.generic_rows(rate)).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in columns.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let cell = |column: &[(String, String)], name: &str| {
        let found = column.iter().find(|(known, _)| known == name);
        found.map_or("-".to_string(), |(_, value)| value.clone())
    };
    let widths: Vec<usize> = plans
        .iter()
        .zip(&columns)
        .map(|(plan, column)| {
            column.iter().map(|(_, value)| value.len()).max().unwrap_or(0).max(plan.name.len())
        })
        .collect();
    let first = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    let mut line = |name: &str, cells: Vec<String>| {
        let _ = write!(out, "{name:<first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "  {cell:>width$}");
        }
        out.push('\n');
    };
    line("", plans.iter().map(|plan| plan.name.clone()).collect());
    for name in names {
        line(name, columns.iter().map(|column| cell(column, name)).collect());
    }
    out
}

impl Plan {
    /// The rows under names that do not hold a model's own figures, so that they line up.
    fn generic_rows(&self, rate: f64) -> Vec<(String, String)> {
        let at = format!("cache at {} x {}", self.batch, self.context);
        let named = self.rows(rate).into_iter().map(|(name, value)| match name == at {
            true => ("cache".to_string(), value),
            false => (name, value),
        });
        [("context".to_string(), self.context.to_string())].into_iter().chain(named).collect()
    }
}

fn bandwidth(common: &Common) -> f64 {
    let threads = common.threads.map_or_else(lathe_runtime::default_workers, usize::from);
    lathe_runtime::measure::read_bandwidth(Isa::detect(), threads) * 1e9
}

/// A number of weights with thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes with two digits behind the point.
fn bytes(bytes: f64) -> String {
    format!("{:.2}", ByteSize(bytes.round() as u64))
}
