//! Go's templates, as far as `--format` needs them: fields, `index`, `range`, `if`, `else`, `end`, `with`, `json`,
//! `join`, `len`, `eq`, `ne`, `not`, `and`, `or`, `printf`, `println`, `upper`, `lower`, `$`, pipes.
//!
//! Values are JSON. A field that does not exist is an error in objects of `inspect`, as docker's is.

mod parse;
mod run;

use parse::{block, pieces};
use run::run;
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
