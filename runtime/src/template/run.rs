//! Nodes with a value: what a template prints.

use super::{Call, Node, TemplateError, Term, err};
use serde_json::Value;

fn walk(value: &Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut here = value;
    for part in path {
        here = match here {
            Value::Object(fields) => match fields.get(part) {
                Some(inner) => inner,
                None => return err(format!("map has no entry for key {part:?}")),
            },
            Value::Null => return Ok(Value::Null),
            _ => return err(format!("can't evaluate field {part}")),
        };
    }
    Ok(here.clone())
}

type Scope = Vec<(String, Value)>;

pub(super) fn run(
    nodes: &[Node],
    dot: &Value,
    scope: &mut Scope,
    out: &mut String,
) -> Result<(), TemplateError> {
    let depth = scope.len();
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&shown(&evaluate(pipe, dot, scope)?)),
            Node::Set(name, pipe) => {
                let value = evaluate(pipe, dot, scope)?;
                scope.push((name.clone(), value));
            }
            Node::If(pipe, then, otherwise) => {
                let branch = if truth(&evaluate(pipe, dot, scope)?) {
                    then
                } else {
                    otherwise
                };
                run(branch, dot, scope, out)?;
            }
            Node::With(pipe, then, otherwise) => {
                let value = evaluate(pipe, dot, scope)?;
                if truth(&value) {
                    run(then, &value, scope, out)?;
                } else {
                    run(otherwise, dot, scope, out)?;
                }
            }
            Node::Range(variables, pipe, body, otherwise) => {
                let items: Vec<(Value, Value)> = match evaluate(pipe, dot, scope)? {
                    Value::Array(items) => items
                        .into_iter()
                        .enumerate()
                        .map(|(index, item)| (index.into(), item))
                        .collect(),
                    Value::Object(fields) => fields
                        .into_iter()
                        .map(|(key, item)| (key.into(), item))
                        .collect(),
                    Value::Null => Vec::new(),
                    _ => return err("range can't iterate over this value"),
                };
                if items.is_empty() {
                    run(otherwise, dot, scope, out)?;
                }
                for (key, item) in items {
                    let before = scope.len();
                    if let Some((first, second)) = variables {
                        scope.extend(first.clone().map(|name| (name, key)));
                        scope.push((second.clone(), item.clone()));
                    }
                    run(body, &item, scope, out)?;
                    scope.truncate(before);
                }
            }
        }
    }
    scope.truncate(depth);
    Ok(())
}

fn evaluate(pipe: &[Call], dot: &Value, scope: &Scope) -> Result<Value, TemplateError> {
    let mut last: Option<Value> = None;
    for call in pipe {
        let (first, rest) = match call.0.split_first() {
            Some(parts) => parts,
            None => return err("missing value for command"),
        };
        let mut arguments = Vec::new();
        for term in rest {
            arguments.push(value_of(term, dot, scope)?);
        }
        arguments.extend(last.take());
        last = Some(match first {
            Term::Name(name) => function(name, &arguments)?,
            // `.Field | f` gives the value on; anything else cannot take arguments.
            _ if arguments.is_empty() => value_of(first, dot, scope)?,
            _ => return err("can't give argument to non-function"),
        });
    }
    Ok(last.unwrap_or(Value::Null))
}

fn value_of(term: &Term, dot: &Value, scope: &Scope) -> Result<Value, TemplateError> {
    match term {
        Term::Path(path) => walk(dot, path),
        Term::Variable(name, path) => match scope.iter().rev().find(|(known, _)| known == name) {
            Some((_, value)) => walk(value, path),
            None => err(format!("undefined variable {name:?}")),
        },
        Term::Literal(value) => Ok(value.clone()),
        Term::Name(name) => function(name, &[]),
        Term::Group(calls, path) => walk(&evaluate(calls, dot, scope)?, path),
    }
}

fn function(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let text = |value: &Value| shown(value);
    Ok(match (name, arguments) {
        ("json", [value]) => Value::String(value.to_string()),
        ("len", [Value::Array(items)]) => items.len().into(),
        ("len", [Value::Object(fields)]) => fields.len().into(),
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Null]) => 0.into(),
        ("index", [value, keys @ ..]) => keys
            .iter()
            .try_fold(value.clone(), |here, key| item(&here, key))?,
        ("eq", [first, rest @ ..]) if !rest.is_empty() => rest.contains(first).into(),
        ("ne", [first, second]) => (first != second).into(),
        ("not", [value]) => (!truth(value)).into(),
        ("and", [.., last]) => arguments
            .iter()
            .find(|value| !truth(value))
            .unwrap_or(last)
            .clone(),
        ("or", [.., last]) => arguments
            .iter()
            .find(|value| truth(value))
            .unwrap_or(last)
            .clone(),
        ("upper", [value]) => text(value).to_uppercase().into(),
        ("lower", [value]) => text(value).to_lowercase().into(),
        ("join", [Value::Array(items), separator]) => items
            .iter()
            .map(shown)
            .collect::<Vec<_>>()
            .join(&text(separator))
            .into(),
        ("join", [Value::Null, _]) => "".into(),
        ("split", [value, separator]) => text(value)
            .split(&text(separator))
            .map(Value::from)
            .collect::<Vec<_>>()
            .into(),
        ("print", _) => arguments.iter().map(shown).collect::<String>().into(),
        ("println", _) => (arguments.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        ("printf", [format, rest @ ..]) => printf(&text(format), rest).into(),
        ("table", []) => "".into(),
        _ => return err(format!("function {name:?} not defined for these arguments")),
    })
}

fn item(value: &Value, key: &Value) -> Result<Value, TemplateError> {
    match (value, key) {
        (Value::Object(fields), Value::String(key)) => {
            Ok(fields.get(key).cloned().unwrap_or(Value::Null))
        }
        (Value::Array(items), Value::Number(index)) => match index
            .as_u64()
            .and_then(|index| items.get(usize::try_from(index).ok()?))
        {
            Some(item) => Ok(item.clone()),
            None => err(format!("error calling index: index out of range: {index}")),
        },
        (Value::Null, _) => err("error calling index: index of untyped nil"),
        _ => err("error calling index: cannot index this value"),
    }
}

fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut width = String::new();
        let verb = loop {
            match chars.next() {
                Some(c) if c.is_ascii_digit() || c == '-' || c == '.' => width.push(c),
                other => break other,
            }
        };
        let value = match verb {
            Some('%') => {
                out.push('%');
                continue;
            }
            None => break,
            Some(verb) => match arguments.next() {
                None => format!("%!{verb}(MISSING)"),
                Some(value) if verb == 'q' => format!("{:?}", shown(value)),
                Some(value) => shown(value),
            },
        };
        let wide: usize = width
            .trim_start_matches('-')
            .split('.')
            .next()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0)
            .min(1000);
        if width.starts_with('-') {
            out.push_str(&format!("{value:<wide$}"));
        } else {
            out.push_str(&format!("{value:>wide$}"));
        }
    }
    out
}

/// As Go prints values.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(shown).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(fields) => format!(
            "map[{}]",
            fields
                .iter()
                .map(|(key, value)| format!("{key}:{}", shown(value)))
                .collect::<Vec<_>>()
                .join(" ")
        ),
        other => other.to_string(),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
