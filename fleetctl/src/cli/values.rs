//! How values are read. An empty one is none, because the environment may hold empty variables.

/// A value, if one was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given<T>(pub(crate) Option<T>);

/// A text, or nothing.
pub(super) fn non_empty(text: &str) -> Result<Given<String>, std::convert::Infallible> {
    Ok(Given((!text.is_empty()).then(|| text.to_owned())))
}

/// Seconds, or nothing.
pub(super) fn seconds(text: &str) -> Result<Given<f64>, String> {
    if text.is_empty() {
        return Ok(Given(None));
    }
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1e9).contains(&value) => Ok(Given(Some(value))),
        _ => Err("not a number of seconds".into()),
    }
}

/// True or false in the spellings that the original takes, or nothing.
pub(super) fn truth(text: &str) -> Result<Given<bool>, String> {
    match text {
        "" => Ok(Given(None)),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Given(Some(true))),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Given(Some(false))),
        _ => Err("neither true nor false".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_none_and_nonsense_is_refused() {
        assert_eq!(non_empty(""), Ok(Given(None)));
        assert_eq!(seconds(""), Ok(Given(None)));
        assert_eq!(seconds("2.5"), Ok(Given(Some(2.5))));
        for bad in ["x", "-1", "inf", "NaN"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(truth(""), Ok(Given(None)));
        assert_eq!(truth("t"), Ok(Given(Some(true))));
        assert_eq!(truth("False"), Ok(Given(Some(false))));
        assert!(truth("yes").is_err());
    }
}
