//! How a failed command says so: docker's words, then at most one hint, and the exit status.
//!
//! Half of the errors come from a container's monitor as text, and docker's texts are a contract of their own (scripts
//! look for them), so a hint is found by the words of the message: [`HINTS`].

use super::args::ArgsError;
use crate::container::ContainerError;
use oci_image::store::StoreError;

/// Which words introduce the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `Error response from daemon: …`.
    Daemon,
    /// A wrong command line.
    Usage,
    /// Said already, or as it is.
    Plain,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub(super) code: i32,
    pub(super) text: String,
    kind: Kind,
}

/// What to do, by words of the message; the first that fits is said.
const HINTS: &[(&str, &str)] = &[
    (
        "port is already allocated",
        "docker ps shows the container that has it, ss -lnp any other program; or publish another port with -p",
    ),
    (
        "is already in use by container",
        "docker start starts that container again, docker rm removes it; or choose another name with --name",
    ),
    (
        "No space left on device",
        "free some space (docker rm and docker rmi remove what is not needed), or set \"data-root\" in /etc/docker/daemon.json to a larger disk",
    ),
    (
        "may require 'docker login'",
        "check the name; for a private repository put the credentials into ~/.docker/config.json (there is no docker login here)",
    ),
    (
        "manifest unknown",
        "the registry answers but has no such tag: check the part behind the colon",
    ),
    (
        "is blocked by this machine's configuration",
        "see \"blocked-registries\" in /etc/docker/daemon.json",
    ),
    (
        "wrong digest",
        "the registry, or something on the way to it, gives other bytes than it names; nothing of them was kept",
    ),
    (
        " is refused",
        "the image is damaged or hostile, nothing of it was kept; have it built and pushed again",
    ),
    (
        "has format ",
        "a newer version wrote it: update this machine, or choose another \"data-root\" in /etc/docker/daemon.json",
    ),
    (
        "failed to pull: ",
        "is the registry up, and reachable from here? one without TLS must be in \"insecure-registries\" of /etc/docker/daemon.json",
    ),
];

impl Failure {
    pub(super) fn daemon(text: String) -> Self {
        Failure {
            code: 1,
            text,
            kind: Kind::Daemon,
        }
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Failure {
            code: 1,
            text: text.into(),
            kind: Kind::Usage,
        }
    }

    pub(super) fn plain(code: i32, text: impl Into<String>) -> Self {
        Failure {
            code,
            text: text.into(),
            kind: Kind::Plain,
        }
    }

    pub(super) fn io(what: &str, error: impl std::fmt::Display) -> Self {
        Failure::daemon(format!("failed to {what}: {error}"))
    }

    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Failure::daemon(telemetry::chain(error))
    }

    pub(super) fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// What to do about it, where something can be said.
    fn hint(&self, root: bool) -> Option<&'static str> {
        if !root && self.text.contains("Permission denied") {
            return Some(
                "use sudo, or have yourself put into the group docker (whoever is in it is as good as root)",
            );
        }
        HINTS
            .iter()
            .find(|(words, _)| self.text.contains(words))
            .map(|(_, hint)| *hint)
    }

    fn say_hint(&self) {
        if let Some(hint) = self.hint(rustix::process::geteuid().is_root()) {
            eprintln!("hint: {hint}");
        }
    }

    /// For commands that go on with their next argument: says it as the engine's answer.
    pub(super) fn report(&self) {
        // Some texts have their own beginning in docker.
        if self.text.starts_with("Error:") {
            eprintln!("{}", self.text);
        } else {
            eprintln!("Error response from daemon: {}", self.text);
        }
        self.say_hint();
    }

    /// Says it as the end of `command`; the exit status.
    pub(super) fn conclude(self, command: &str, usage: &str) -> i32 {
        let run = matches!(command, "run" | "create");
        let text = self.text.trim_end_matches('.');
        match self.kind {
            Kind::Plain if self.text.is_empty() => {}
            Kind::Plain => eprintln!("{}", self.text),
            Kind::Daemon if run => {
                eprintln!(
                    "docker: Error response from daemon: {text}.\nSee 'docker {command} --help'."
                );
            }
            Kind::Daemon => eprintln!("Error response from daemon: {}", self.text),
            Kind::Usage if run => eprintln!("docker: {text}.\nSee 'docker {command} --help'."),
            Kind::Usage => eprintln!(
                "{}\nSee 'docker {command} --help'.\n\nUsage:  docker {command} {usage}",
                self.text
            ),
        }
        if self.kind != Kind::Usage {
            self.say_hint();
        }
        if run && self.kind != Kind::Plain && self.code == 1 {
            125
        } else {
            self.code
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ContainerError> for Failure {
    fn from(error: ContainerError) -> Self {
        Failure::of(&error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::of(&error)
    }
}

impl From<ArgsError> for Failure {
    fn from(error: ArgsError) -> Self {
        Failure::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_belongs_to_the_first_words_that_fit() {
        for (text, hint) in [
            (
                "Bind for 0.0.0.0:80 failed: port is already allocated",
                "docker ps",
            ),
            (
                "Conflict. The container name \"/a\" is already in use by container \"b\"",
                "docker start",
            ),
            (
                "failed to write /x: No space left on device (os error 28)",
                "free some space",
            ),
            (
                "failed to pull: https://h: timeout: connect",
                "insecure-registries",
            ),
            (
                "failed to fetch layer from https://h: wrong digest: wanted a, got b",
                "other bytes",
            ),
            (
                "layer sha256:0 is refused: entry \"../x\": the name leaves the layer",
                "hostile",
            ),
        ] {
            let found = Failure::daemon(text.to_owned()).hint(true);
            assert!(
                found.is_some_and(|found| found.contains(hint)),
                "{text}: {found:?}"
            );
        }
        assert_eq!(
            Failure::daemon("No such container: x".to_owned()).hint(true),
            None
        );
        let denied =
            Failure::daemon("failed to list /d: Permission denied (os error 13)".to_owned());
        assert_eq!(denied.hint(true), None);
        assert!(denied.hint(false).is_some_and(|hint| hint.contains("sudo")));
    }
}
