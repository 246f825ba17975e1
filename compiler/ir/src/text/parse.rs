//! From text to statements; what the names in them mean is found later.

use lathe_tensor::value::Composites;
use serde_json::{Map, Value};

use super::ParseError;
use super::cursor::{Cursor, Parsed};
use crate::{Dim, Guard, GuardCondition, ValueType};

pub(super) struct Graph {
    pub(super) position: usize,
    pub(super) name: String,
    pub(super) inputs: Vec<Input>,
    pub(super) requirements: Vec<Guard>,
    pub(super) composites: Composites,
    pub(super) constants: Vec<Constant>,
    pub(super) nodes: Vec<Node>,
    pub(super) outputs: Vec<(Operand, String)>,
}

pub(super) struct Input {
    pub(super) name: String,
    pub(super) ty: ValueType,
    pub(super) known: Option<Vec<Dim>>,
}

pub(super) struct Constant {
    pub(super) position: usize,
    pub(super) number: u64,
    pub(super) ty: ValueType,
    pub(super) literal: Literal,
    pub(super) encoding: Option<Value>,
    pub(super) name: Option<String>,
}

pub(super) enum Literal {
    Hash(u64),
    /// Element texts; strings are decoded already.
    Elements(Vec<String>),
    Splat(String),
}

pub(super) struct Node {
    pub(super) position: usize,
    pub(super) results: Vec<(u64, Option<ValueType>)>,
    pub(super) op: String,
    pub(super) operands: Vec<Operand>,
    pub(super) dims: Option<Vec<Dim>>,
    pub(super) attributes: Map<String, Value>,
    pub(super) name: String,
}

pub(super) struct Operand {
    pub(super) position: usize,
    pub(super) reference: Reference,
}

pub(super) enum Reference {
    Missing,
    Result(u64),
    Constant(u64),
    Input(String),
}

pub(super) fn graphs(text: &str) -> Result<Vec<Graph>, ParseError> {
    let mut cursor = Cursor::new(text);
    let mut graphs = Vec::new();
    loop {
        cursor.skip_lines();
        if cursor.at_end() {
            return Ok(graphs);
        }
        graphs.push(graph(&mut cursor)?);
    }
}

fn graph(cursor: &mut Cursor<'_>) -> Parsed<Graph> {
    let position = cursor.position();
    if !cursor.take_word("graph") {
        return Err(cursor.error("expected `graph`"));
    }
    let name = cursor.name()?;
    cursor.expect("(")?;
    let mut inputs = Vec::new();
    cursor.skip_lines();
    while !cursor.take(")") {
        if !inputs.is_empty() {
            cursor.expect(",")?;
            cursor.skip_lines();
        }
        inputs.push(input(cursor)?);
        cursor.skip_lines();
    }
    cursor.expect("{")?;
    let mut graph = Graph {
        position,
        name,
        inputs,
        requirements: Vec::new(),
        composites: Composites::default(),
        constants: Vec::new(),
        nodes: Vec::new(),
        outputs: Vec::new(),
    };
    loop {
        cursor.skip_lines();
        if cursor.take("}") {
            return Ok(graph);
        }
        statement(cursor, &mut graph)?;
    }
}

fn input(cursor: &mut Cursor<'_>) -> Parsed<Input> {
    let name = cursor.name()?;
    cursor.expect(":")?;
    let ty = cursor.ty()?;
    let known = if cursor.take_word("known") { Some(cursor.dims()?) } else { None };
    Ok(Input { name, ty, known })
}

fn statement(cursor: &mut Cursor<'_>, graph: &mut Graph) -> Parsed<()> {
    if cursor.peek() == Some('%') {
        graph.nodes.push(node(cursor)?);
    } else if cursor.take_word("return") {
        graph.outputs = outputs(cursor)?;
        cursor.end_of_line()?;
    } else if cursor.take_word("require") {
        graph.requirements.push(requirement(cursor)?);
        cursor.end_of_line()?;
    } else if cursor.take_word("composites") {
        graph.composites = cursor.json()?;
        cursor.end_of_line()?;
    } else if cursor.peek() == Some('c') {
        graph.constants.push(constant(cursor)?);
    } else {
        return Err(cursor.error("expected a constant, a node, `require`, `composites`, `return` or `}`"));
    }
    Ok(())
}

fn requirement(cursor: &mut Cursor<'_>) -> Parsed<Guard> {
    let a = cursor.dim()?;
    let make = if cursor.take("==") {
        GuardCondition::Equal
    } else if cursor.take(">=") {
        GuardCondition::AtLeast
    } else if cursor.take("~") {
        GuardCondition::Broadcastable
    } else {
        return Err(cursor.error("expected `==`, `>=` or `~`"));
    };
    let b = cursor.dim()?;
    let reason = if cursor.peek() == Some('"') { cursor.json()? } else { String::new() };
    Ok(Guard { condition: make(a, b), reason })
}

fn outputs(cursor: &mut Cursor<'_>) -> Parsed<Vec<(Operand, String)>> {
    let mut outputs = Vec::new();
    if matches!(cursor.peek(), None | Some('\n' | '}' | '/')) {
        return Ok(outputs);
    }
    loop {
        let operand = operand(cursor)?;
        let name = if cursor.take_word("as") { cursor.name()? } else { String::new() };
        outputs.push((operand, name));
        if !cursor.take(",") {
            return Ok(outputs);
        }
    }
}

fn operand(cursor: &mut Cursor<'_>) -> Parsed<Operand> {
    let quoted = cursor.peek() == Some('"');
    let position = cursor.position();
    if cursor.take("%") {
        return Ok(Operand { position, reference: Reference::Result(cursor.number()?) });
    }
    let name = cursor.name()?;
    let number = name.strip_prefix('c').and_then(|digits| digits.parse().ok());
    let reference = match (number, name.as_str()) {
        (Some(number), _) if !quoted => Reference::Constant(number),
        (_, "_") if !quoted => Reference::Missing,
        _ => Reference::Input(name),
    };
    Ok(Operand { position, reference })
}

fn constant(cursor: &mut Cursor<'_>) -> Parsed<Constant> {
    let position = cursor.position();
    cursor.expect("c")?;
    let number = cursor.number()?;
    cursor.expect("=")?;
    if !cursor.take_word("const") {
        return Err(cursor.error("expected `const`"));
    }
    let ty = cursor.ty()?;
    let literal = literal(cursor)?;
    let encoding = if cursor.peek() == Some('{') { Some(cursor.json()?) } else { None };
    let name = cursor.end_of_line()?;
    Ok(Constant { position, number, ty, literal, encoding, name })
}

fn literal(cursor: &mut Cursor<'_>) -> Parsed<Literal> {
    if cursor.take("#") {
        let digits = cursor.word();
        let hash = u64::from_str_radix(digits, 16);
        return hash.map(Literal::Hash).map_err(|_| cursor.error("expected a hash of 16 hex digits"));
    }
    if cursor.take_word("splat") {
        return Ok(Literal::Splat(element(cursor)?));
    }
    if !cursor.take("[") {
        return Ok(Literal::Elements(vec![element(cursor)?]));
    }
    let mut elements = Vec::new();
    if cursor.take("]") {
        return Ok(Literal::Elements(elements));
    }
    loop {
        elements.push(element(cursor)?);
        if cursor.take("]") {
            return Ok(Literal::Elements(elements));
        }
        cursor.expect(",")?;
    }
}

fn element(cursor: &mut Cursor<'_>) -> Parsed<String> {
    if cursor.peek() == Some('"') {
        return cursor.json();
    }
    let text = cursor.run(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    if text.is_empty() { Err(cursor.error("expected an element")) } else { Ok(text.to_string()) }
}

fn node(cursor: &mut Cursor<'_>) -> Parsed<Node> {
    let position = cursor.position();
    let mut results = Vec::new();
    loop {
        cursor.expect("%")?;
        let number = cursor.number()?;
        let ty = if cursor.take(":") { Some(cursor.ty()?) } else { None };
        results.push((number, ty));
        if !cursor.take(",") {
            break;
        }
    }
    cursor.expect("=")?;
    let op = cursor.word().to_string();
    let mut operands = Vec::new();
    if !matches!(cursor.peek(), None | Some('\n' | '{' | '[' | '/' | '}')) {
        operands.push(operand(cursor)?);
        while cursor.take(",") {
            operands.push(operand(cursor)?);
        }
    }
    let dims = if cursor.peek() == Some('[') { Some(cursor.dims()?) } else { None };
    let attributes = attributes(cursor)?;
    let name = cursor.end_of_line()?.unwrap_or_default();
    Ok(Node { position, results, op, operands, dims, attributes, name })
}

fn attributes(cursor: &mut Cursor<'_>) -> Parsed<Map<String, Value>> {
    let mut attributes = Map::new();
    if !cursor.take("{") || cursor.take("}") {
        return Ok(attributes);
    }
    loop {
        let key = cursor.name()?;
        cursor.expect("=")?;
        attributes.insert(key, cursor.json()?);
        if cursor.take("}") {
            return Ok(attributes);
        }
        cursor.expect(",")?;
    }
}
