//! Generated code as text: what changes in it shows in review.

mod plans;

use lathe_artifact::plan::{StepKind, View};
use lathe_codegen::{Level, Target, emit_asm, emit_clif};
use plans::*;

fn mixed() -> lathe_artifact::plan::Plan {
    let condition = View { offset: Some(COLUMNS), ..view(2) };
    let then_steps = vec![step(3, StepKind::Region(bias_relu(0, 1, 2))), step(4, StepKind::Barrier)];
    plan(
        vec![
            fill(0),
            StepKind::Barrier,
            StepKind::If { condition, then_steps, else_steps: vec![] },
            StepKind::Region(bias_relu(2, 1, 0)),
        ],
        3,
    )
}

#[test]
fn steps_branches_and_a_shared_region() {
    insta::assert_snapshot!(emit_clif(&mixed(), &Target::x86_64(Level::V3)).unwrap());
}

#[test]
fn a_region_with_a_tile_function() {
    let plan = plan(vec![StepKind::Region(gelu(0, 1))], 2);
    insta::assert_snapshot!(emit_asm(&plan, &Target::x86_64(Level::V3)).unwrap());
}

#[test]
fn a_stride_that_is_known_only_at_run_time() {
    let mut region = bias_relu(0, 1, 2);
    region.inputs[1].strides = vec![ZERO, ROW_STRIDE];
    insta::assert_snapshot!(emit_clif(&plan(vec![StepKind::Region(region)], 3), &Target::aarch64()).unwrap());
}
