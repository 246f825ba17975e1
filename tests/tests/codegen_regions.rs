//! Generated regions against a plain interpreter, through the engine: random shapes, strides, dtypes and bodies, on every level of
//! the instruction set that this machine has, with one worker and with several.

mod regions;

use std::collections::HashMap;

use lathe_artifact::builtin::TileFunction;
use lathe_artifact::plan::{DimId, View};
use lathe_artifact::region::{Region, RegionOp, RegionOpKind, RegionOperand};
use lathe_codegen::{Level, Target};
use lathe_runtime::{Model, Outputs, RuntimeError, Session, Team, TensorView};
use lathe_tensor::DType;
use regions::interpreter::{self, Domain, Scalar};
use regions::{model, plan_of_region, random};

/// Cases to run; each is a plan that is compiled once.
const CASES: u64 = 600;

/// What an output must hold: byte offsets with their values.
type Expected = Vec<(usize, Scalar)>;

fn team(workers: usize) -> Team {
    Team::new(workers).unwrap()
}

fn run(model: &Model, team: &Team, inputs: &[Vec<u8>]) -> Result<Outputs, RuntimeError> {
    let shapes: Vec<[usize; 1]> = inputs.iter().map(|bytes| [bytes.len()]).collect();
    let names: Vec<String> = (0..inputs.len()).map(|index| format!("in{index}")).collect();
    let views =
        inputs.iter().zip(&shapes).map(|(bytes, shape)| TensorView::new(DType::U8, shape, bytes).unwrap());
    let inputs: Vec<(&str, TensorView<'_>)> = names.iter().map(String::as_str).zip(views).collect();
    Session::with_team(model, team).unwrap().run(&inputs)
}

/// A tile function alone, by a plan of nothing else.
struct Tiles {
    models: HashMap<(i64, usize), Model>,
    team: Team,
}

impl Tiles {
    fn apply(&mut self, function: TileFunction, x: &[f32]) -> Vec<f32> {
        if x.is_empty() {
            return Vec::new();
        }
        let model = self.models.entry((function as i64, x.len())).or_insert_with(|| {
            let operand = |slot, dims: &mut dyn FnMut(i64) -> DimId| RegionOperand {
                view: View { slot: lathe_artifact::plan::SlotId(slot), offset: None },
                dtype: DType::F32,
                strides: vec![dims(1)],
            };
            let plan = plan_of_region(&[4 * x.len(), 4 * x.len()], 1, |dims| Region {
                sizes: vec![dims(x.len() as i64)],
                inputs: vec![operand(0, dims)],
                outputs: vec![(operand(1, dims), 1)],
                body: [RegionOpKind::Load(0), RegionOpKind::Tile(function, 0)]
                    .map(|kind| RegionOp { dtype: DType::F32, kind })
                    .to_vec(),
            });
            model(plan, &Target::native().unwrap())
        });
        let bytes = x.iter().flat_map(|value| value.to_le_bytes()).collect();
        let outputs = run(model, &self.team, &[bytes]).unwrap();
        let bytes = outputs.get("out0").unwrap().bytes();
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }
}

/// Byte offset of an operand's element.
fn offset(case: &random::Case, operand: &RegionOperand, index: &[i64]) -> usize {
    let element: i64 =
        index.iter().zip(&operand.strides).map(|(index, &stride)| index * case.value(stride)).sum();
    let bytes = operand.dtype.element_bytes().unwrap() as i64;
    (element * bytes + operand.view.offset.map_or(0, |offset| case.value(offset))) as usize
}

/// The outputs by the interpreter; `None` where an integer is divided by zero.
fn expected(case: &random::Case, tiles: &mut Tiles) -> Option<Vec<Expected>> {
    let region = case.region();
    let sizes: Vec<i64> = region.sizes.iter().map(|&size| case.value(size)).collect();
    let mut indices = vec![Vec::new()];
    for size in sizes {
        indices = indices
            .into_iter()
            .flat_map(|index| (0..size).map(move |next| [index.clone(), vec![next]].concat()))
            .collect();
    }
    let load = |input: u32, index: &[i64]| {
        let operand = &region.inputs[input as usize];
        let bytes = &case.inputs[operand.view.slot.0 as usize];
        Scalar::read(operand.dtype, &bytes[offset(case, operand, index)..])
    };
    let tiles = std::cell::RefCell::new(tiles);
    let tile = |function, x: &[f32]| tiles.borrow_mut().apply(function, x);
    let domain = Domain { indices: &indices, dims: &case.dims, load: &load, tile: &tile };
    let values = interpreter::run(&region.body, &domain);
    let output = |(operand, value): &(RegionOperand, u32)| {
        let column = &values[*value as usize];
        indices
            .iter()
            .zip(column)
            .map(|(index, value)| Some((offset(case, operand, index), (*value)?)))
            .collect()
    };
    region.outputs.iter().map(output).collect()
}

#[test]
fn random_regions_match_the_interpreter() {
    let targets: Vec<Target> = if cfg!(target_arch = "x86_64") {
        [Level::V2, Level::V3, Level::V4].map(Target::x86_64).to_vec()
    } else {
        vec![Target::native().unwrap()]
    };
    let targets: Vec<Target> =
        targets.into_iter().filter(|target| target.spec().missing_here().is_empty()).collect();
    let teams = [team(1), team(3)];
    let mut tiles = Tiles { models: HashMap::new(), team: team(1) };
    let (mut divisions_by_zero, mut compared) = (0, 0);
    for seed in 0..CASES {
        let case = random::case(seed);
        let target = &targets[seed as usize % targets.len()];
        let model = model(case.plan.clone(), target);
        let expected = expected(&case, &mut tiles);
        for team in &teams {
            let context =
                || format!("seed {seed}, {target}, {} workers\n{:?}", team.workers(), case.region());
            let outputs = match (run(&model, team, &case.inputs), &expected) {
                (Ok(outputs), Some(_)) => outputs,
                (Err(RuntimeError::StepFailed { node, .. }), None) => {
                    assert_eq!(node, "fused");
                    divisions_by_zero += 1;
                    continue;
                }
                (result, _) => panic!("{}: {:?}", context(), result.map(|_| "no division by zero")),
            };
            for (index, list) in expected.iter().flatten().enumerate() {
                let dtype = case.region().outputs[index].0.dtype;
                let bytes = outputs.get(&format!("out{index}")).unwrap().bytes();
                for (element, &(at, want)) in list.iter().enumerate() {
                    let got = Scalar::read(dtype, &bytes[at..]);
                    assert!(
                        got.same(want),
                        "output {index}, element {element}: {got:?}, not {want:?}; {}",
                        context()
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(divisions_by_zero > 2 && compared > 100_000, "{divisions_by_zero} and {compared}");
}
