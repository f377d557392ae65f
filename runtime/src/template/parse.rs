//! From text to nodes.

use super::{Call, DEPTH, Node, TemplateError, Term, err};
use serde_json::Value;

pub(super) enum Piece {
    Text(String),
    Action(String),
}

pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
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
pub(super) fn block(
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
