use super::*;
use crate::Buffer;

fn f(shape: &[usize], elements: &[f32]) -> Tensor {
    Tensor::from_slice(elements, shape).expect("the shape fits")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Tensor(tensor) => match tensor.strings() {
            Ok(strings) => format!("{:?}{strings:?}", tensor.shape()),
            Err(_) => format!("{}{:?}{:?}", tensor.dtype(), tensor.shape(), tensor.bytes()),
        },
        Value::Sequence(values) => format!("({})", values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Optional(None) => "none".into(),
        Value::Optional(Some(inner)) => format!("some {}", shown(inner)),
        Value::Map { keys, values } => {
            format!(
                "{{{:?} {}}}",
                keys.strings().map(<[Vec<u8>]>::to_vec),
                shown(&Value::Tensor(values.clone()))
            )
        }
    }
}

#[track_caller]
fn there_and_back(form: &Form, value: &Value) {
    let parts = form.parts_of(value).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(parts.len(), form.part_count());
    for (part, tensor) in form.parts().iter().zip(&parts) {
        assert_eq!((part.dtype, part.rank as usize), (tensor.dtype(), tensor.rank()), "{}", part.suffix);
    }
    let back = form.value_of(&parts).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(shown(&back), shown(value));
}

#[test]
fn values_come_back_from_their_parts() {
    let tensors = [f(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), f(&[], &[5.0]), f(&[0, 3], &[])];
    let values = Value::Sequence(tensors.into_iter().map(Value::Tensor).collect());
    let mixed = Form::Sequence { dtype: DType::F32, rank: Rank::Mixed };
    there_and_back(&mixed, &values);
    there_and_back(&Form::List { dtype: DType::F32, ranks: vec![2, 0, 2] }, &values);
    there_and_back(&mixed, &Value::Sequence(vec![]));
    let optional = Form::Optional(Box::new(mixed));
    there_and_back(&optional, &Value::Optional(Some(Box::new(values))));
    there_and_back(&optional, &Value::Optional(None));
    there_and_back(&Form::Optional(Box::new(Form::Nothing)), &Value::Optional(None));
    let words = |words: &[&str]| {
        let bytes = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Tensor::from_strings(bytes, &[words.len()]).expect("words")
    };
    let texts = Value::Sequence(vec![Value::Tensor(words(&["a", "b"])), Value::Tensor(words(&["c"]))]);
    there_and_back(&Form::Sequence { dtype: DType::String, rank: Rank::Is(1) }, &texts);
    let map = Value::Map { keys: words(&["a", "b"]), values: f(&[2], &[1.0, 2.0]) };
    there_and_back(&Form::Map { keys: DType::String, values: DType::F32 }, &map);
}

#[test]
fn elements_of_less_than_a_byte_are_packed_anew() {
    let codes = |count: usize, bytes: &[u8]| {
        Value::Tensor(Tensor::new(DType::U4, vec![count], Buffer::copy_of(bytes)).expect("codes"))
    };
    let values = Value::Sequence(vec![codes(3, &[0x21, 0x03]), codes(2, &[0x54])]);
    let form = Form::Sequence { dtype: DType::U4, rank: Rank::Is(1) };
    there_and_back(&form, &values);
    assert_eq!(form.parts_of(&values).expect("parts")[0].bytes(), [0x21, 0x43, 0x05]);
}

#[test]
fn records_are_rows() {
    let keys = Tensor::from_slice(&[7i64, 9], &[2]).expect("keys");
    let form = Form::Records { keys: DType::I64, values: DType::F32 };
    let value = form.value_of(&[keys.clone(), f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]).expect("maps");
    let Value::Sequence(maps) = value else { panic!("a sequence") };
    assert!(
        matches!(&maps[2], Value::Map { values, .. } if values.to_slice::<f32>().expect("f32")[..] == [5.0, 6.0])
    );
    assert!(form.value_of(&[keys, f(&[3, 1], &[1.0, 2.0, 3.0])]).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let tensor = Value::Tensor(f(&[1], &[1.0]));
    let sequence = Form::Sequence { dtype: DType::F32, rank: Rank::Is(2) };
    assert!(sequence.parts_of(&tensor).is_err());
    assert!(sequence.parts_of(&Value::Sequence(vec![tensor.clone()])).is_err());
    assert!(Form::Tensor { dtype: DType::I64, rank: 1 }.parts_of(&tensor).is_err());
    assert!(
        Form::List { dtype: DType::F32, ranks: vec![] }.parts_of(&Value::Sequence(vec![tensor])).is_err()
    );
    let ints = |shape: &[usize], elements: &[i64]| Tensor::from_slice(elements, shape).expect("ints");
    let broken: [(&[i64], &[i64]); 5] =
        [(&[2], &[1, 3]), (&[2], &[2, 2]), (&[-1], &[1, -1]), (&[3], &[1, 3]), (&[2], &[-1, 2])];
    for (sizes, layout) in broken {
        let parts = [f(&[2], &[1.0, 2.0]), ints(&[sizes.len()], sizes), ints(&[1, 2], layout)];
        assert!(sequence.value_of(&parts).is_err(), "{sizes:?} {layout:?}");
    }
}

#[test]
fn callers_see_values_in_order() {
    let form = Form::Sequence { dtype: DType::F32, rank: Rank::Any };
    let empty = Form::List { dtype: DType::F32, ranks: vec![] };
    let composite =
        |name: &str, first, form: &Form| Composite { name: name.into(), first, form: form.clone() };
    let composites = [composite("b", 1, &form), composite("none", 4, &empty)];
    let seen = seen(&["a", "b.elements", "b.sizes", "b.layout", "c"], &composites);
    let seen: Vec<_> = seen.iter().map(|value| (value.name, value.first, value.form.is_some())).collect();
    assert_eq!(seen, [("a", 0, false), ("b", 1, true), ("none", 4, true), ("c", 4, false)]);
}
