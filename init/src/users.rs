//! `/etc/passwd` and `/etc/group`, parsed by ourselves: PID 1 is static and never asks a name service.
//!
//! Lines that make no sense are passed over. Lookups take a name or a number; an unknown number is still a
//! valid user without name, home and primary group other than itself.

/// A line of passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Login name.
    pub(crate) name: String,
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Home directory.
    pub(crate) home: String,
    /// Shell.
    pub(crate) shell: String,
}

/// A line of group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Both files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Database {
    users: Vec<User>,
    groups: Vec<Group>,
}

/// The system's files as they are now.
pub(crate) fn system() -> Database {
    let read = |path| {
        std::fs::read(path)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    };
    Database::parse(&read("/etc/passwd"), &read("/etc/group"))
}

impl Database {
    /// Parses the texts of both files.
    pub(crate) fn parse(passwd: &str, group: &str) -> Database {
        Database {
            users: passwd.lines().filter_map(parse_user).collect(),
            groups: group.lines().filter_map(parse_group).collect(),
        }
    }

    /// The user by name or number.
    pub(crate) fn user(&self, name: &str) -> Option<User> {
        if let Some(found) = self.users.iter().find(|u| u.name == name) {
            return Some(found.clone());
        }
        let uid: u32 = name.parse().ok()?;
        if let Some(found) = self.users.iter().find(|u| u.uid == uid) {
            return Some(found.clone());
        }
        Some(User {
            name: name.to_owned(),
            uid,
            gid: uid,
            home: String::new(),
            shell: String::new(),
        })
    }

    /// The group id by name or number.
    pub(crate) fn group(&self, name: &str) -> Option<u32> {
        self.groups
            .iter()
            .find(|g| g.name == name)
            .map(|g| g.gid)
            .or_else(|| name.parse().ok())
    }

    /// The name of a group.
    pub(crate) fn group_name(&self, gid: u32) -> Option<&str> {
        self.groups
            .iter()
            .find(|g| g.gid == gid)
            .map(|g| g.name.as_str())
    }

    /// All groups of a user: the primary one and those that list it.
    pub(crate) fn groups_of(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut all = vec![primary];
        for group in self
            .groups
            .iter()
            .filter(|g| g.members.iter().any(|m| m == user))
        {
            if !all.contains(&group.gid) {
                all.push(group.gid);
            }
        }
        all
    }
}

fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields
        .next()
        .filter(|n| !n.is_empty() && !n.starts_with(['#', '+', '-']))?;
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1).unwrap_or_default().to_owned();
    let shell = fields.next().unwrap_or_default().trim().to_owned();
    Some(User {
        name: name.to_owned(),
        uid,
        gid,
        home,
        shell,
    })
}

fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields
        .next()
        .filter(|n| !n.is_empty() && !n.starts_with(['#', '+', '-']))?;
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields
        .next()
        .unwrap_or_default()
        .trim()
        .split(',')
        .filter(|m| !m.is_empty());
    Some(Group {
        name: name.to_owned(),
        gid,
        members: members.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# c\ncore:*:500:500:Core,,,:/home/core:/bin/bash\nbad:x:y:z\netcd:x:232:232::/var/lib/etcd:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\ncore:x:500:\ndocker:x:233:core,etcd\nwheel:x:10:core\n+nis\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let data = Database::parse(PASSWD, GROUP);
        let core = data.user("core").unwrap();
        assert_eq!(
            (core.uid, core.gid, core.home.as_str(), core.shell.as_str()),
            (500, 500, "/home/core", "/bin/bash")
        );
        assert_eq!(data.user("232").unwrap().name, "etcd");
        assert_eq!(data.user("9999").unwrap().gid, 9999);
        assert!(data.user("nosuch").is_none() && data.user("bad").is_none());
    }

    #[test]
    fn groups_of_a_user_are_the_primary_and_those_that_list_it() {
        let data = Database::parse(PASSWD, GROUP);
        assert_eq!(data.groups_of("core", 500), [500, 233, 10]);
        assert_eq!(data.groups_of("root", 0), [0]);
        assert_eq!(
            (data.group("docker"), data.group("77"), data.group("x")),
            (Some(233), Some(77), None)
        );
        assert_eq!(data.group_name(10), Some("wheel"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(passwd in "[ -~\n]*", group in "[ -~\n]*") {
            let data = Database::parse(&passwd, &group);
            let _ = (data.user("root"), data.group("root"), data.groups_of("root", 0));
        }
    }
}
