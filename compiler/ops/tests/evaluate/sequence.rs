use serde_json::json;

use super::*;

/// `[[1, 2], [3, 4]]`, `5` and `[6, 7]` as a sequence.
fn mixed() -> [Tensor; 3] {
    [i(&[7], &[1, 2, 3, 4, 5, 6, 7]), i(&[3], &[2, 2, 2]), i(&[3, 2], &[2, 4, 0, 1, 1, 2])]
}

fn with<'a>(parts: &'a [Tensor; 3], more: &[&'a Tensor]) -> Vec<&'a Tensor> {
    parts.iter().chain(more.iter().copied()).collect()
}

#[test]
fn tensors_become_a_sequence() {
    let (a, b, c) = (i(&[2, 2], &[1, 2, 3, 4]), i(&[], &[5]), i(&[2], &[6, 7]));
    check("sequence_construct", json!({"dtype": "i64"}), &[&a, &b, &c], &mixed());
    let nothing = [text(&[0], &[]), i(&[0], &[]), i(&[0, 2], &[])];
    check("sequence_construct", json!({"dtype": "string"}), &[], &nothing);
    let words = [text(&[3], &["a", "b", "c"]), i(&[2], &[1, 2]), i(&[2, 2], &[1, 1, 1, 2])];
    check(
        "sequence_construct",
        json!({"dtype": "string"}),
        &[&text(&[1], &["a"]), &text(&[2], &["b", "c"])],
        &words,
    );
    refuse("sequence_construct", json!({"dtype": "f32"}), &[&a], "expected f32");
}

#[test]
fn a_place_counts_from_either_end() {
    let parts = mixed();
    for place in [1, -2] {
        check("sequence_at", json!({"rank": 0}), &with(&parts, &[&i(&[], &[place])]), &[i(&[], &[5])]);
    }
    check("sequence_at", json!({"rank": 2}), &with(&parts, &[&i(&[1], &[0])]), &[i(&[2, 2], &[1, 2, 3, 4])]);
    refuse("sequence_at", json!({"rank": 1}), &with(&parts, &[&i(&[], &[0])]), "2 axes, not 1");
    for place in [3, -4, i64::MIN, i64::MAX] {
        refuse(
            "sequence_at",
            json!({"rank": 1}),
            &with(&parts, &[&i(&[], &[place])]),
            "outside axis 0 of size 3",
        );
    }
    refuse("sequence_at", json!({"rank": 1}), &with(&parts, &[&i(&[2], &[0, 1])]), "one element");
}

#[test]
fn tensors_are_inserted_and_erased() {
    let (parts, x) = (mixed(), i(&[1, 1], &[9]));
    let front = [
        i(&[8], &[9, 1, 2, 3, 4, 5, 6, 7]),
        i(&[5], &[1, 1, 2, 2, 2]),
        i(&[4, 2], &[2, 1, 2, 4, 0, 1, 1, 2]),
    ];
    check("sequence_insert", json!({}), &with(&parts, &[&x, &i(&[], &[0])]), &front);
    check("sequence_insert", json!({}), &with(&parts, &[&x, &i(&[], &[-3])]), &front);
    let back = [
        i(&[8], &[1, 2, 3, 4, 5, 6, 7, 9]),
        i(&[5], &[2, 2, 2, 1, 1]),
        i(&[4, 2], &[2, 4, 0, 1, 1, 2, 2, 1]),
    ];
    check("sequence_insert", json!({}), &with(&parts, &[&x]), &back);
    check("sequence_insert", json!({}), &with(&parts, &[&x, &i(&[], &[3])]), &back);
    refuse("sequence_insert", json!({}), &with(&parts, &[&x, &i(&[], &[4])]), "outside");
    refuse("sequence_insert", json!({}), &with(&parts, &[&f(&[1], &[1.0])]), "i64");
    check("sequence_erase", json!({}), &front.iter().chain([&i(&[], &[0])]).collect::<Vec<_>>(), &parts);
    check("sequence_erase", json!({}), &back.iter().collect::<Vec<_>>(), &parts);
    let middle = [i(&[6], &[1, 2, 3, 4, 6, 7]), i(&[3], &[2, 2, 2]), i(&[2, 2], &[2, 4, 1, 2])];
    check("sequence_erase", json!({}), &with(&parts, &[&i(&[], &[-2])]), &middle);
    refuse("sequence_erase", json!({}), &with(&parts, &[&i(&[], &[3])]), "outside");
    let empty = [i(&[0], &[]), i(&[0], &[]), i(&[0, 2], &[])];
    refuse("sequence_erase", json!({}), &empty.iter().collect::<Vec<_>>(), "empty sequence");
}

#[test]
fn an_axis_is_cut_and_joined_again() {
    let x = count(&[2, 3, 2]);
    let pieces = [
        f(&[12], &[0.0, 1.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0]),
        i(&[6], &[2, 2, 2, 2, 1, 2]),
        i(&[2, 2], &[3, 8, 3, 4]),
    ];
    let whole = json!({"axis": 1, "new_axis": false, "rank": 3});
    let cut = json!({"axis": 1, "keep_dims": true});
    for sizes in [i(&[], &[2]), i(&[2], &[2, 1])] {
        check("split_to_sequence", cut.clone(), &[&x, &sizes], &pieces);
    }
    check(
        "concat_from_sequence",
        whole.clone(),
        &pieces.iter().collect::<Vec<_>>(),
        std::slice::from_ref(&x),
    );
    let rows = [x.reshape(&[12]).expect("flat"), i(&[4], &[3, 2, 3, 2]), i(&[2, 2], &[2, 6, 2, 6])];
    check("split_to_sequence", json!({"axis": 0, "keep_dims": false}), &[&x], &rows);
    let stack = json!({"axis": 0, "new_axis": true, "rank": 2});
    check("concat_from_sequence", stack, &rows.iter().collect::<Vec<_>>(), std::slice::from_ref(&x));
    let last = json!({"axis": -1, "new_axis": true, "rank": 1});
    let pairs = [f(&[4], &[1.0, 2.0, 3.0, 4.0]), i(&[2], &[2, 2]), i(&[2, 2], &[1, 2, 1, 2])];
    check(
        "concat_from_sequence",
        last,
        &pairs.iter().collect::<Vec<_>>(),
        &[f(&[2, 2], &[1.0, 3.0, 2.0, 4.0])],
    );
    for sizes in [i(&[], &[0]), i(&[], &[-1]), i(&[2], &[2, 2]), i(&[2], &[4, -1]), i(&[2], &[i64::MAX, 2])] {
        let error = evaluate("split_to_sequence", cut.clone(), &[&x, &sizes], 3).expect_err("sizes");
        assert!(error.to_string().contains("size"), "{error}");
    }
    let one = evaluate("split_to_sequence", cut, &[&x, &i(&[], &[i64::MAX])], 3).expect("one piece");
    assert_eq!(one[2].to_slice::<i64>().expect("i64")[..], [3, 12]);
    refuse(
        "concat_from_sequence",
        json!({"axis": 0, "new_axis": false, "rank": 1}),
        &with(&mixed(), &[]),
        "does not fit",
    );
    let empty = [f(&[0], &[]), i(&[0], &[]), i(&[0, 2], &[])];
    refuse("concat_from_sequence", whole, &empty.iter().collect::<Vec<_>>(), "empty sequence");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let elements = f(&[2], &[1.0, 2.0]);
    let broken: [(&[i64], &[usize], &[i64]); 7] = [
        (&[2], &[1, 2], &[1, 3]),
        (&[3], &[1, 2], &[1, 3]),
        (&[2], &[1, 2], &[2, 2]),
        (&[-2], &[1, 2], &[1, -2]),
        (&[2], &[1, 2], &[-1, 2]),
        (&[2], &[2], &[1, 2]),
        (&[i64::MAX, i64::MAX], &[1, 2], &[2, 1]),
    ];
    for (sizes, shape, layout) in broken {
        let parts = [elements.clone(), i(&[sizes.len()], sizes), i(shape, layout)];
        refuse("sequence_at", json!({"rank": 1}), &with(&parts, &[&i(&[], &[0])]), "do not fit");
    }
}

#[test]
fn a_requirement_holds_or_ends_the_run() {
    let x = f(&[2], &[1.0, 2.0]);
    let reason = json!({"reason": "the optional is empty"});
    check("require", reason.clone(), &[&x, &b(&[], &[true])], std::slice::from_ref(&x));
    refuse("require", reason.clone(), &[&x, &b(&[], &[false])], "the optional is empty");
    refuse("require", reason, &[&x, &b(&[2], &[true, true])], "one bool");
}

#[test]
fn nothing_takes_no_time() {
    let x = Tensor::zeros(DType::F32, &[1 << 40, 0, 3]).expect("no elements");
    let cut = json!({"axis": 1, "keep_dims": true});
    let parts = evaluate("split_to_sequence", cut, &[&x, &i(&[2], &[0, 0])], 3).expect("two pieces");
    assert_eq!(parts[2].to_slice::<i64>().expect("i64")[..], [3, 0, 3, 0]);
    let join = json!({"axis": 1, "new_axis": false, "rank": 3});
    let whole = evaluate("concat_from_sequence", join, &parts.iter().collect::<Vec<_>>(), 1).expect("joined");
    assert_eq!(whole[0].shape(), [1 << 40, 0, 3]);
    refuse("split_to_sequence", json!({"axis": 0, "keep_dims": true}), &[&x], "over the limit");
}
