//! Go's templates, as far as `--format` needs them: fields, `index`, `range`, `if`, `else`, `end`, `with`, `json`,
//! `join`, `len`, `eq`, `ne`, `not`, `and`, `or`, `printf`, `println`, `upper`, `lower`, `$`, pipes.
//!
//! Values are JSON. A field that does not exist is an error in objects of `inspect`, as docker's is.

use serde_json::Value;

/// Why a template is refused or cannot be filled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("template parsing error: template: :1: {0}")]
pub struct TemplateError(String);

fn err<T>(text: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError(text.into()))
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Vec<Call>),
    If(Vec<Call>, Vec<Node>, Vec<Node>),
    Range(
        Option<(Option<String>, String)>,
        Vec<Call>,
        Vec<Node>,
        Vec<Node>,
    ),
    With(Vec<Call>, Vec<Node>, Vec<Node>),
    Set(String, Vec<Call>),
}

#[derive(Debug, Clone, PartialEq)]
struct Call(Vec<Term>);

#[derive(Debug, Clone, PartialEq)]
enum Term {
    Path(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    Name(String),
    Group(Vec<Call>, Vec<String>),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Node>);

/// Deepest nesting of blocks and parentheses.
const DEPTH: usize = 50;

impl Template {
    /// Parses; `\t` and `\n` of the shell are line characters, as in docker.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut pieces = pieces(&text)?.into_iter();
        let (nodes, end) = block(&mut pieces, 0)?;
        match end {
            None => Ok(Template(nodes)),
            Some(word) => err(format!("unexpected {{{{{word}}}}}")),
        }
    }

    /// Fills it with a value.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        let mut scope = vec![("$".to_owned(), value.clone())];
        run(&self.0, value, &mut scope, &mut out)?;
        Ok(out)
    }
}

enum Piece {
    Text(String),
    Action(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let mut before = &rest[..start];
        let Some(length) = rest[start..].find("}}") else {
            return err("unclosed action");
        };
        let mut action = &rest[start + 2..start + length];
        rest = &rest[start + length + 2..];
        if let Some(inner) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = inner;
        }
        if let Some(inner) = action.strip_suffix(" -") {
            rest = rest.trim_start();
            action = inner;
        }
        found.push(Piece::Text(before.to_owned()));
        if !action.trim().starts_with("/*") {
            found.push(Piece::Action(action.trim().to_owned()));
        }
    }
    found.push(Piece::Text(rest.to_owned()));
    Ok(found)
}

/// Nodes up to `end` or `else`, which is returned.
fn block(
    pieces: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Option<String>), TemplateError> {
    if depth > DEPTH {
        return err("nested too deeply");
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                if !text.is_empty() {
                    nodes.push(Node::Text(text));
                }
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action
            .split_once(char::is_whitespace)
            .unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" => nodes.push(conditional(rest, pieces, depth)?),
            "range" | "with" => {
                let (variables, expression) = assignment(rest)?;
                let pipe = pipeline(expression)?;
                let (body, otherwise) = body(pieces, depth)?;
                nodes.push(match word {
                    "range" => Node::Range(variables, pipe, body, otherwise),
                    _ => Node::With(pipe, body, otherwise),
                });
            }
            _ => match assignment(&action)? {
                (Some((None, name)), expression) => {
                    nodes.push(Node::Set(name, pipeline(expression)?));
                }
                _ => nodes.push(Node::Print(pipeline(&action)?)),
            },
        }
    }
    Ok((nodes, None))
}

fn conditional(
    rest: &str,
    pieces: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<Node, TemplateError> {
    let pipe = pipeline(rest)?;
    let (then, end) = block(pieces, depth + 1)?;
    let otherwise = match end.as_deref() {
        Some("end") => Vec::new(),
        Some("else") => match block(pieces, depth + 1)? {
            (nodes, Some(end)) if end == "end" => nodes,
            _ => return err("unexpected EOF"),
        },
        Some(other) => match other.strip_prefix("else if ") {
            Some(rest) => vec![conditional(rest, pieces, depth + 1)?],
            None => return err(format!("unexpected {other:?}")),
        },
        None => return err("unexpected EOF"),
    };
    Ok(Node::If(pipe, then, otherwise))
}

fn body(
    pieces: &mut impl Iterator<Item = Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
    let (nodes, end) = block(pieces, depth + 1)?;
    match end.as_deref() {
        Some("end") => Ok((nodes, Vec::new())),
        Some("else") => match block(pieces, depth + 1)? {
            (otherwise, Some(end)) if end == "end" => Ok((nodes, otherwise)),
            _ => err("unexpected EOF"),
        },
        _ => err("unexpected EOF"),
    }
}

type Variables = Option<(Option<String>, String)>;

/// `$k, $v := expression`.
fn assignment(text: &str) -> Result<(Variables, &str), TemplateError> {
    let Some((names, expression)) = text.split_once(":=") else {
        return Ok((None, text));
    };
    if !names.trim_start().starts_with('$') {
        return Ok((None, text));
    }
    let mut names = names.split(',').map(|name| name.trim().to_owned());
    match (names.next(), names.next(), names.next()) {
        (Some(first), None, None) => Ok((Some((None, first)), expression)),
        (Some(first), Some(second), None) => Ok((Some((Some(first), second)), expression)),
        _ => err("too many variables"),
    }
}

fn pipeline(text: &str) -> Result<Vec<Call>, TemplateError> {
    let tokens = tokens(text)?;
    let mut position = 0;
    let calls = calls(&tokens, &mut position, 0)?;
    if position < tokens.len() {
        return err(format!("unexpected {:?} in command", tokens[position]));
    }
    if calls.iter().any(|call| call.0.is_empty()) {
        return err("missing value for command");
    }
    Ok(calls)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Pipe,
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => found.push(Token::Open),
            '|' => found.push(Token::Pipe),
            ')' => {
                found.push(Token::Close);
                // `(index .A 0).B`
                if chars.peek() == Some(&'.') {
                    found.push(Token::Word(word(&mut chars, String::new())));
                }
            }
            '"' | '`' => {
                let mut inner = String::new();
                loop {
                    match chars.next() {
                        None => return err("unterminated quoted string"),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some('n') => inner.push('\n'),
                            Some('t') => inner.push('\t'),
                            Some(other) => inner.push(other),
                            None => return err("unterminated quoted string"),
                        },
                        Some(other) => inner.push(other),
                    }
                }
                found.push(Token::Text(inner));
            }
            other => found.push(Token::Word(word(&mut chars, other.to_string()))),
        }
    }
    Ok(found)
}

fn word(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, mut start: String) -> String {
    while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"()|\"`".contains(*c)) {
        start.push(c);
    }
    start
}

fn calls(tokens: &[Token], position: &mut usize, depth: usize) -> Result<Vec<Call>, TemplateError> {
    if depth > DEPTH {
        return err("nested too deeply");
    }
    let mut calls = vec![Call(Vec::new())];
    while let Some(token) = tokens.get(*position) {
        match token {
            Token::Close => break,
            Token::Pipe => calls.push(Call(Vec::new())),
            _ => {
                let term = term(tokens, position, depth)?;
                if let Some(call) = calls.last_mut() {
                    call.0.push(term);
                }
            }
        }
        *position += 1;
    }
    Ok(calls)
}

fn term(tokens: &[Token], position: &mut usize, depth: usize) -> Result<Term, TemplateError> {
    Ok(match &tokens[*position] {
        Token::Text(text) => Term::Literal(Value::String(text.clone())),
        Token::Open => {
            *position += 1;
            let inner = calls(tokens, position, depth + 1)?;
            if tokens.get(*position) != Some(&Token::Close) {
                return err("unclosed left paren");
            }
            let path = match tokens.get(*position + 1) {
                Some(Token::Word(word)) if word.starts_with('.') => {
                    *position += 1;
                    path(word)
                }
                _ => Vec::new(),
            };
            Term::Group(inner, path)
        }
        Token::Word(word) if word.starts_with('.') => Term::Path(path(word)),
        Token::Word(word) if word.starts_with('$') => {
            let (name, rest) = word.split_at(word.find('.').unwrap_or(word.len()));
            Term::Variable(name.to_owned(), path(rest))
        }
        Token::Word(word) => match word.as_str() {
            "true" => Term::Literal(Value::Bool(true)),
            "false" => Term::Literal(Value::Bool(false)),
            "nil" => Term::Literal(Value::Null),
            other => match other.parse::<i64>() {
                Ok(number) => Term::Literal(number.into()),
                Err(_) => Term::Name(other.to_owned()),
            },
        },
        other => return err(format!("unexpected {other:?}")),
    })
}

fn path(word: &str) -> Vec<String> {
    word.split('.')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

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

fn run(
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(template: &str, expected: &str) {
        let value = json!({
            "Name": "/web", "State": {"Running": true, "ExitCode": 0}, "Args": ["a", "b"], "Empty": [],
            "NetworkSettings": {"IPAddress": "172.17.0.2", "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}},
            "Config": {"Labels": {"k": "v"}}
        });
        assert_eq!(
            Template::parse(template)
                .and_then(|template| template.render(&value))
                .unwrap(),
            expected,
            "{template}"
        );
    }

    #[test]
    fn common_formats_of_scripts_work() {
        check("{{.NetworkSettings.IPAddress}}", "172.17.0.2");
        check("{{ .State.Running }}|{{.State.ExitCode}}", "true|0");
        check(
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "8080",
        );
        check(
            "{{range $p, $c := .NetworkSettings.Ports}}{{$p}}->{{(index $c 0).HostPort}} {{end}}",
            "80/tcp->8080 ",
        );
        check(
            "{{range .Args}}<{{.}}>{{end}}{{range .Empty}}x{{else}}none{{end}}",
            "<a><b>none",
        );
        check("{{if .State.Running}}up{{else}}down{{end}}", "up");
        check("{{if eq .Name \"/web\"}}a{{else if .Empty}}b{{end}}", "a");
        check(
            "{{json .Args}} {{len .Args}} {{join .Args \",\"}}",
            "[\"a\",\"b\"] 2 a,b",
        );
        check(
            "{{.Args | json | printf \"%q\"}}",
            "\"[\\\"a\\\",\\\"b\\\"]\"",
        );
        check("{{printf \"%s=%-5s|\" .Name \"x\"}}", "/web=x    |");
        check(
            "{{index .Config.Labels \"k\"}}{{with .Empty}}no{{end}}{{$x := .Name}}{{$x}}\\t{{$.Name}}",
            "v/web\t/web",
        );
        check("a {{- .Name -}} b", "a/webb");
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        for bad in [
            "{{",
            "{{if .A}}",
            "{{end}}",
            "{{.A | }}",
            "{{(.A}}",
            "{{\"x}}",
            "{{frob .}}",
            "{{.Nope}}",
            "{{index .Args 9}}",
            "{{$y}}",
        ] {
            let value = json!({"A": 1, "Args": []});
            assert!(
                Template::parse(bad)
                    .and_then(|template| template.render(&value))
                    .is_err(),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_template_is_survived(text in "[{}.a-z$ |()\"0-9:=,-]{0,60}") {
            let _ = Template::parse(&text).and_then(|template| template.render(&json!({"a": [1, {"b": null}]})));
        }
    }
}
