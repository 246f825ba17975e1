//! Runs that end early: stopped, failed, waiting for one another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::Builtin;

use super::tests::*;
use crate::{CancelToken, LoadOptions, RunOptions, RuntimeError, Session, Team};

// A program that only ends when it is stopped.

static ENDLESS_RUNS: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn endless(worker: *const Worker) -> i32 {
    loop {
        ENDLESS_RUNS.store(true, Ordering::SeqCst);
        // SAFETY: entered by the engine.
        let status = unsafe { barrier(worker) };
        if status != 0 {
            return status;
        }
    }
}

#[test]
fn tokens_and_deadlines_stop_a_run() {
    let model = model(affine_plan(), endless, &[affine_shape], &LoadOptions::default());
    for workers in [1, 2, 3] {
        let mut session = session(&model, workers);
        let (x, _) = rows(2);
        let options = RunOptions {
            deadline: Some(Instant::now() + Duration::from_millis(20)),
            ..RunOptions::default()
        };
        let error = session.run_with(&[("x", &x)], &options).unwrap_err();
        assert_eq!(error.to_string(), "the run was stopped: its deadline passed");
        let token = CancelToken::new();
        let options = RunOptions { cancel: Some(token.clone()), ..RunOptions::default() };
        ENDLESS_RUNS.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ENDLESS_RUNS.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                token.cancel();
            });
            let error = session.run_with(&[("x", &x)], &options).unwrap_err();
            assert!(matches!(error, RuntimeError::Cancelled("it was cancelled")), "{error}");
        });
        let error = session.run_with(&[("x", &x)], &options).unwrap_err();
        assert!(
            matches!(error, RuntimeError::Cancelled(_)),
            "a cancelled token stops runs before they start"
        );
    }
}

// Failures: the first size of the input says which builtin to call, or which worker fails.

unsafe extern "C" fn call_builtin(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine; the failpoint returns before the builtin looks at its arguments.
    unsafe {
        let builtin = dim(worker, 0) as usize;
        let function: unsafe extern "C" fn(*const Worker, *const u8) -> i32 =
            std::mem::transmute(*run(worker).table.add(builtin));
        let status = function(worker, std::ptr::null());
        if status != 0 { give_up(worker, 1, status) } else { barrier(worker) }
    }
}

unsafe extern "C" fn one_worker_fails(worker: *const Worker) -> i32 {
    // SAFETY: entered by the engine.
    unsafe {
        let victim = dim(worker, 0) as u64;
        for round in 0..20 {
            if round == 10 && (*worker).index == victim % (*worker).count {
                return give_up(worker, 2, Status::IndexOutOfRange as i32);
            }
            let status = barrier(worker);
            if status != 0 {
                return status;
            }
        }
        barrier(worker)
    }
}

#[test]
fn a_failing_builtin_ends_the_run_on_all_workers() {
    let model = model(affine_plan(), call_builtin, &[affine_shape], &LoadOptions::default());
    for workers in [1, 2, 3, 8] {
        let mut session = session(&model, workers);
        for &builtin in Builtin::ALL {
            lathe_kernels::failpoint::set(Some(builtin));
            let (x, _) = rows(builtin as usize);
            let error = session.run(&[("x", &x)]).unwrap_err();
            assert!(
                matches!(&error, RuntimeError::StepFailed { node, step: 1, .. } if node == "/node/1"),
                "{error}"
            );
        }
    }
    lathe_kernels::failpoint::set(None);
}

#[test]
fn a_failure_on_one_worker_ends_the_run_on_all() {
    let model = model(affine_plan(), one_worker_fails, &[affine_shape], &LoadOptions::default());
    for workers in [1, 2, 3, 8] {
        let mut session = session(&model, workers);
        for victim in 0..workers {
            let error = session.run(&[("x", &rows(victim).0)]).unwrap_err();
            let text = error.to_string();
            assert_eq!(text, "node `/node/2` (test), step 2: an index lies outside its axis");
        }
    }
}

#[test]
fn sessions_of_many_threads_share_a_team() {
    let model = affine_model();
    let team = Team::new(3).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (model, team) = (&model, &team);
            scope.spawn(move || {
                let mut session = Session::with_team(model, team).unwrap();
                for round in 0..50 {
                    let (x, y) = rows(1 + (thread * 7 + round) % 11);
                    let outputs = session.run(&[("x", &x)]).unwrap();
                    assert_eq!(outputs.get("y").unwrap().to_slice::<f32>().unwrap().as_ref(), y);
                }
            });
        }
    });
}
