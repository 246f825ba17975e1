//! Mixtures of experts: the compiled program against the evaluation of the op, over random routers, experts and sizes.

use lathe_ir::{EvaluateOptions, Module};
use lathe_runtime::{Isa, LoadOptions, Model, Session, Team};
use lathe_tensor::{SplitMix64, Tensor};
use proptest::prelude::*;

/// A mixture as the text form has it.
#[derive(Clone, Debug)]
struct Case {
    experts: usize,
    top_k: usize,
    sigmoid: bool,
    renormalise: bool,
    capacity: Option<usize>,
    activation: &'static str,
    gate: &'static str,
    transposed: bool,
    biases: bool,
    /// Elements of a token, of the gated product, of an answer.
    sizes: [usize; 3],
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let router = (1usize..7, any::<prop::sample::Index>(), any::<bool>(), any::<bool>());
    let experts = (
        prop::option::of(1usize..4),
        prop::sample::select(&["relu", "silu", "gelu"][..]),
        prop::sample::select(&["none", "halves", "interleaved"][..]),
        any::<[bool; 2]>(),
    );
    (router, experts, [1usize..20, 1usize..20, 1usize..20], any::<u64>()).prop_map(
        |(router, experts, sizes, seed)| {
            let (count, top_k, sigmoid, renormalise) = router;
            let (capacity, activation, gate, [transposed, biases]) = experts;
            let top_k = top_k.index(count) + 1;
            Case {
                experts: count,
                top_k,
                sigmoid,
                renormalise,
                // A capacity belongs to the choice of one expert.
                capacity: capacity.filter(|_| top_k == 1),
                activation,
                gate,
                transposed,
                biases,
                sizes,
                seed,
            }
        },
    )
}

/// Numbers between -1 and 1.
fn numbers(random: &mut SplitMix64, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

impl Case {
    fn text(&self) -> String {
        let Case { experts, sizes: [width, inner, out], .. } = *self;
        let hidden = if self.gate == "none" { inner } else { 2 * inner };
        let mut random = SplitMix64::new(self.seed);
        let mut constant = |name: &str, shape: &[usize]| {
            let values = numbers(&mut random, shape.iter().product());
            // A list of lists, as nested as the shape.
            format!("  {name} = const f32{shape:?} {values:?}\n")
        };
        let matrix = |rows: usize, columns: usize| match self.transposed {
            true => [experts, columns, rows],
            false => [experts, rows, columns],
        };
        let mut constants = constant("c0", &matrix(width, hidden)) + &constant("c1", &matrix(inner, out));
        let mut operands = "x, logits, c0, c1".to_string();
        if self.biases {
            constants += &constant("c2", &[experts, hidden]);
            constants += &constant("c3", &[experts, out]);
            operands += ", _, c2, c3";
        }
        let capacity = self.capacity.map_or("null".to_string(), |capacity| capacity.to_string());
        let router = if self.sigmoid { "sigmoid" } else { "softmax" };
        let Case { top_k, renormalise, activation, gate, transposed, .. } = self;
        format!(
            "graph \"main\" (x: f32[b, s, {width}], logits: f32[b, s, {experts}]) {{\n{constants}  %0 = moe {operands} \
             {{experts={experts},top_k={top_k},router=\"{router}\",renormalise={renormalise},epsilon=0.0,scale=1.5,\
             groups=null,capacity={capacity},activation=\"{activation}\",gate=\"{gate}\",clamped=null,\
             transposed={transposed},shared_experts=0}}\n  return %0 as y\n}}"
        )
    }
}

fn compiled(module: &Module, isa: Isa) -> Model {
    let options = LoadOptions { isa: Some(isa), ..LoadOptions::default() };
    let (model, evaluated) = lathe_tests::text::program(module, &options);
    assert_eq!(evaluated, 0, "steps of the evaluator");
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_program_computes_what_the_op_means(case in cases(), batch in 1usize..4, seq in 0usize..12, workers in 1usize..4) {
        let module = lathe_ir::parse(&case.text()).map_err(|error| TestCaseError::fail(format!("{error}\n{}", case.text())))?;
        let mut random = SplitMix64::new(case.seed ^ 1);
        let tokens = batch * seq;
        let x = Tensor::from_slice(&numbers(&mut random, tokens * case.sizes[0]), &[batch, seq, case.sizes[0]]).expect("x");
        let logits = numbers(&mut random, tokens * case.experts);
        let logits = Tensor::from_slice(&logits, &[batch, seq, case.experts]).expect("logits");
        let inputs = [x.clone(), logits.clone()];
        let main = module.main().expect("a function");
        let want = lathe_ir::evaluate(&module, main, &inputs, &EvaluateOptions::default()).expect("evaluates");
        let want = want[0].to_slice::<f32>().expect("f32").into_owned();
        for isa in Isa::available() {
            let model = compiled(&module, isa);
            let team = Team::new(workers).expect("a team");
            let mut session = Session::with_team(&model, &team).expect("a session");
            let outputs = session.run(&[("x", &x), ("logits", &logits)]).expect("a run");
            let got = outputs.tensors()[0].to_slice::<f32>().expect("f32").into_owned();
            prop_assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() <= 2e-5 * (1.0 + want.abs()), "{}: {got}, not {want}: {case:?}", isa.name());
            }
        }
    }
}

/// Two of eight experts, f32[4] tokens, 6 gated, 4 out.
fn sparse() -> Case {
    Case {
        experts: 8,
        top_k: 2,
        sigmoid: false,
        renormalise: true,
        capacity: None,
        activation: "silu",
        gate: "halves",
        transposed: false,
        biases: false,
        sizes: [4, 6, 4],
        seed: 7,
    }
}

#[test]
fn statistics_leave_padding_out() {
    let text = r#"graph "main" (x: f32[b, s, 1], logits: f32[b, s, 2], attention_mask: i64[b, s]) {
  c0 = const f32[2, 1, 1] [1.0, 2.0]
  %0 = moe x, logits, c0, c0 {experts=2,top_k=1,router="softmax",renormalise=false,epsilon=0.0,scale=1.0,groups=null,capacity=1,activation="none",gate="none",clamped=null,transposed=false,shared_experts=0}
  %1 = moe %0, logits, c0, c0 {experts=2,top_k=1,router="softmax",renormalise=false,epsilon=0.0,scale=1.0,groups=null,capacity=null,activation="none",gate="none",clamped=null,transposed=false,shared_experts=0}
  return %1 as y
}"#;
    let module = lathe_ir::parse(text).expect("parses");
    let model = compiled(&module, Isa::detect());
    let three = 3f32.ln();
    // Expert 0 by 3/4, by 3/4, expert 1 by 3/4, padding.
    let logits =
        Tensor::from_slice(&[three, 0.0, three, 0.0, 0.0, three, 0.0, 0.0], &[1, 4, 2]).expect("fits");
    let x = Tensor::from_slice(&[1f32; 4], &[1, 4, 1]).expect("fits");
    let mask = Tensor::from_slice(&[1i64, 1, 1, 0], &[1, 4]).expect("fits");
    let mut session = Session::new(&model).expect("a session");
    let outputs = session.run(&[("x", &x), ("logits", &logits), ("attention_mask", &mask)]).expect("a run");
    let [first, second] = &outputs.stats().routers[..] else { panic!("{:?}", outputs.stats().routers) };
    // The second token of expert 0 is above its capacity.
    assert_eq!((&first.load[..], &first.assigned[..]), (&[1, 1][..], &[2, 1][..]));
    assert_eq!((first.tokens, first.dropped, second.dropped), (3, 1, 0));
    assert_eq!(second.load, [2, 1]);
    // 2 * (2/3 * (3/4 + 3/4 + 1/4) / 3 + 1/3 * (1/4 + 1/4 + 3/4) / 3) = 9.5 / 9
    for router in [first, second] {
        assert!((router.balance_loss() - 9.5 / 9.0).abs() < 1e-6, "{}", router.balance_loss());
    }
}

#[test]
fn a_graph_may_ask_for_what_its_router_chose() {
    let text = r#"graph "main" (x: f32[b, s, 1], logits: f32[b, s, 2], attention_mask: i64[b, s]) {
  c0 = const f32[2, 1, 1] [1.0, 2.0]
  %0, %1, %2, %3 = moe x, logits, c0, c0 {experts=2,top_k=1,router="softmax",renormalise=false,epsilon=0.0,scale=1.0,groups=null,capacity=1,activation="none",gate="none",clamped=null,transposed=false,shared_experts=0}
  return %0 as y, %1 as load, %2 as dropped, %3 as balance
}"#;
    let module = lathe_ir::parse(text).expect("parses");
    let model = compiled(&module, Isa::detect());
    let three = 3f32.ln();
    // Expert 0 by 3/4 three times, expert 1 by 3/4; padding counts, as the graph's own op has it.
    let logits =
        Tensor::from_slice(&[three, 0.0, three, 0.0, 0.0, three, three, 0.0], &[1, 4, 2]).expect("fits");
    let x = Tensor::from_slice(&[1f32; 4], &[1, 4, 1]).expect("fits");
    let mask = Tensor::from_slice(&[1i64, 1, 1, 0], &[1, 4]).expect("fits");
    let mut session = Session::new(&model).expect("a session");
    let outputs = session.run(&[("x", &x), ("logits", &logits), ("attention_mask", &mask)]).expect("a run");
    let tensors = outputs.tensors();
    assert_eq!(tensors[1].to_slice::<i64>().expect("i64").as_ref(), [1, 1]);
    assert_eq!(tensors[2].to_slice::<i64>().expect("i64").as_ref(), [2]);
    // 2 * (3/4 * (3 * 3/4 + 1/4) / 4 + 1/4 * (3 * 1/4 + 3/4) / 4) = 2 * (0.75 * 0.625 + 0.25 * 0.375)
    let balance = tensors[3].to_slice::<f32>().expect("f32")[0];
    assert!((balance - 1.125).abs() < 1e-6, "{balance}");
    // The report leaves the padding out.
    assert_eq!(outputs.stats().routers[0].assigned, [2, 1]);
}

#[test]
fn work_is_that_of_the_chosen_experts() {
    let case = sparse();
    let module = lathe_ir::parse(&case.text()).expect("parses");
    let main = module.main().expect("a function");
    let plan = lathe_plan::plan(&module, main, &lathe_plan::PlanOptions::default()).expect("a plan").plan;
    let [width, inner, out] = case.sizes;
    // Weights of the first and of the second product of one expert, in panels of 32 columns.
    let expert = (width + inner) * 32 * 4;
    assert_eq!((2 * inner <= 32, out <= 32), (true, true));
    for tokens in [1i64, 8] {
        let work = plan.step_work(&|_, axis| Some(if axis == 0 { tokens } else { 1 }));
        let flops: u64 = work.iter().map(|step| step.flops).sum();
        assert_eq!(flops as usize, 2 * tokens as usize * case.top_k * (width * 2 * inner + inner * out));
        let whole = plan.step_work(&|_, axis| Some(if axis == 0 { 1_000_000 } else { 1 }));
        let products = |work: &[lathe_artifact::StepWork]| -> u64 {
            work.iter().filter(|step| step.flops > 0).map(|step| step.bytes).sum()
        };
        // What is left without weights grows with the tokens.
        let others = |tokens: u64| tokens * 2 * 4 * (width + 2 * inner + inner + out) as u64 + 2 * 9 * 8;
        assert_eq!(products(&whole) - others(1_000_000), 8 * expert as u64);
        let read = (products(&work) - others(tokens as u64)) as f64 / expert as f64;
        let expected = 8.0 * (1.0 - 0.75f64.powi(tokens as i32));
        assert!((read - expected).abs() < 0.01, "{read} experts, not {expected}");
    }
}

#[test]
fn as_many_experts_are_read_as_are_chosen() {
    let case = sparse();
    let model = compiled(&lathe_ir::parse(&case.text()).expect("parses"), Isa::detect());
    let mut session = Session::new(&model).expect("a session");
    let mut random = SplitMix64::new(11);
    for (tokens, expected, slack) in [(1usize, 2.0, 0.0), (8, 8.0 * (1.0 - 0.75f64.powi(8)), 0.1)] {
        let (mut read, mut computed) = (0, 0);
        for _ in 0..400 {
            let mut tensor = |columns: usize| {
                Tensor::from_slice(&numbers(&mut random, tokens * columns), &[tokens, 1, columns])
                    .expect("fits")
            };
            let (x, logits) = (tensor(4), tensor(8));
            let outputs = session.run(&[("x", &x), ("logits", &logits)]).expect("a run");
            let router = &outputs.stats().routers[0];
            read += router.load.iter().filter(|count| **count > 0).count();
            computed += router.load.iter().sum::<u64>();
        }
        assert_eq!(computed, 400 * 2 * tokens as u64);
        let mean = read as f64 / 400.0;
        assert!((mean - expected).abs() <= slack, "{mean} experts at {tokens} tokens, not {expected}");
    }
}
