//! Who calls, and what callers may do.
//!
//! | listener | who | role |
//! |---|---|---|
//! | unix | root, the daemon's own user, the group `fleet` (also as a supplementary group) | admin |
//! | unix | anybody else | none: every request is refused |
//! | TCP with TLS | the names in the client's certificate | `api_roles`, else read |
//! | TCP without | the address | `plain_role` |
//!
//! This is values only: the shell in `serve` asks the socket and hands over what it said.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hyper::Method;

/// The group whose members control the cluster.
pub(crate) const GROUP: &str = "fleet";

/// What a caller may do. Each may also do what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at units, states and machines.
    Read,
    /// Create, change, restart and destroy units, and read their logs.
    Operate,
    /// Change machines: metadata, cordon, drain, rebalance.
    Admin,
}

impl Role {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is none of read, operate, admin")]
pub struct ParseRoleError(String);

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Read, Self::Operate, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| ParseRoleError(text.chars().take(40).collect()))
    }
}

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A unix socket.
    Unix,
    /// TCP with a client certificate.
    Tls,
    /// TCP without.
    Plain,
}

impl Via {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tls => "tls",
            Self::Plain => "plain",
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// A user, the name in a certificate, or an address.
    pub name: String,
    /// What they may do; nothing if there is none.
    pub role: Option<Role>,
    /// How they came.
    pub via: Via,
}

/// The process at the other end of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// The rules.
#[derive(Debug, Clone)]
pub struct Access {
    /// User of the daemon itself.
    pub own_uid: u32,
    /// Roles by certificate name.
    pub roles: BTreeMap<String, Role>,
    /// Role of callers without TLS.
    pub plain: Role,
}

impl Access {
    /// A caller on a unix socket. `passwd` and `group` are the texts of those files.
    pub(crate) fn unix(&self, process: &Process, passwd: &str, group: &str) -> Caller {
        let uid = process.uid;
        let fleet = lookup(group, |fields| fields[0] == GROUP)
            .and_then(|fields| fields.get(2)?.parse::<u32>().ok());
        let member = fleet.is_some_and(|gid| process.gid == gid || process.groups.contains(&gid));
        let user = lookup(passwd, |fields| {
            fields.get(2).is_some_and(|f| f.parse() == Ok(uid))
        });
        Caller {
            name: user.map_or_else(|| format!("uid {uid}"), |fields| fields[0].to_owned()),
            role: (uid == 0 || uid == self.own_uid || member).then_some(Role::Admin),
            via: Via::Unix,
        }
    }

    /// A caller who showed a certificate with these names, the common name first. The best role
    /// among them counts.
    pub(crate) fn certificate(&self, names: &[String]) -> Caller {
        let role = names.iter().filter_map(|n| self.roles.get(n)).max();
        Caller {
            name: names
                .first()
                .map_or("a certificate without a name", |n| n)
                .to_owned(),
            role: Some(role.copied().unwrap_or(Role::Read)),
            via: Via::Tls,
        }
    }

    /// A caller who showed nothing.
    pub(crate) fn plain(&self, address: String) -> Caller {
        Caller {
            name: address,
            role: Some(self.plain),
            via: Via::Plain,
        }
    }
}

/// The role that a request needs.
pub(crate) fn needed(method: &Method, path: &str) -> Role {
    let beyond = path.strip_prefix("/flotilla/v1/");
    let read = matches!(*method, Method::GET | Method::HEAD);
    match beyond {
        // Logs tell more than any unit file.
        Some(rest) if read && rest.starts_with("units/") && rest.ends_with("/journal") => {
            Role::Operate
        }
        _ if read => Role::Read,
        Some(rest) if rest.starts_with("units/") => Role::Operate,
        None if path.contains("/units/") => Role::Operate,
        _ => Role::Admin,
    }
}

/// A group's number, from the machine's own list.
pub(crate) fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    lookup(&text, |fields| fields[0] == name)?
        .get(2)?
        .parse()
        .ok()
}

/// The first line of a file like passwd(5) whose fields are so.
fn lookup(text: &str, so: impl Fn(&[&str]) -> bool) -> Option<Vec<&str>> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| so(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\ncore:x:500:500::/home/core:/bin/bash\n";
    const GROUP_FILE: &str = "root:x:0:\nfleet:x:253:core\nother:x:7:\n";

    fn access() -> Access {
        let roles = [("ops", Role::Admin), ("ci", Role::Operate)];
        Access {
            own_uid: 77,
            roles: roles.map(|(n, r)| (n.to_owned(), r)).into(),
            plain: Role::Operate,
        }
    }

    #[test]
    fn the_unix_socket_is_for_root_the_own_user_and_the_group() {
        for (uid, gid, groups, group_file, expect) in [
            (0, 0, vec![], GROUP_FILE, ("root", Some(Role::Admin))),
            (
                500,
                500,
                vec![7, 253],
                GROUP_FILE,
                ("core", Some(Role::Admin)),
            ),
            (500, 253, vec![], GROUP_FILE, ("core", Some(Role::Admin))),
            (500, 500, vec![7], GROUP_FILE, ("core", None)),
            (500, 500, vec![253], "", ("core", None)),
            (77, 77, vec![], "", ("uid 77", Some(Role::Admin))),
            (1000, 0, vec![0], GROUP_FILE, ("uid 1000", None)),
            (
                1000,
                7,
                vec![],
                "fleet:x\n::\nfleet:x:7:\n",
                ("uid 1000", None),
            ),
        ] {
            let process = Process { uid, gid, groups };
            let caller = access().unix(&process, PASSWD, group_file);
            assert_eq!((caller.name.as_str(), caller.role), expect, "{process:?}");
        }
    }

    #[test]
    fn certificates_have_the_best_role_of_their_names() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        for (given, expect) in [
            (&["ops"][..], Role::Admin),
            (&["ci", "ops"], Role::Admin),
            (&["ci"], Role::Operate),
            (&["nobody"], Role::Read),
            (&[], Role::Read),
        ] {
            assert_eq!(access().certificate(&names(given)).role, Some(expect));
        }
    }

    #[test]
    fn requests_need_roles() {
        for (method, path, expect) in [
            (Method::GET, "/fleet/v1/units/a.service", Role::Read),
            (Method::PUT, "/fleet/v1/units/a.service", Role::Operate),
            (Method::DELETE, "/v1-alpha/units/a.service", Role::Operate),
            (Method::PATCH, "/fleet/v1/machines", Role::Admin),
            (
                Method::GET,
                "/flotilla/v1/units/a.service/journal",
                Role::Operate,
            ),
            (
                Method::GET,
                "/flotilla/v1/units/a.service/result",
                Role::Read,
            ),
            (
                Method::POST,
                "/flotilla/v1/units/a.service/restart",
                Role::Operate,
            ),
            (Method::POST, "/flotilla/v1/machines/m/drain", Role::Admin),
            (Method::POST, "/flotilla/v1/machines/x/units/y", Role::Admin),
            (Method::POST, "/flotilla/v1/rebalance", Role::Admin),
            (Method::GET, "/flotilla/v1/rebalance", Role::Read),
            (Method::POST, "/", Role::Admin),
        ] {
            assert_eq!(needed(&method, path), expect, "{method} {path}");
        }
    }
}
