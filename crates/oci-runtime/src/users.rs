//! `-u name`, `-u uid:gid`: users by the files of the container's own root.

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory, `/` when unknown.
    pub home: String,
}

/// A name that the container's files do not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
}

/// Resolves `user[:group]` against the texts of `/etc/passwd` and `/etc/group`; empty is root.
pub fn resolve(
    user: &str,
    passwd: &str,
    group: &str,
    add: &[String],
) -> Result<Identity, UserError> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let entry = lines(passwd).find(|fields| {
        fields.len() >= 6
            && (fields[0] == name || (number.is_some() && fields[2].parse().ok() == number))
    });
    let (uid, mut gid, login, home) = match (&entry, number) {
        (Some(fields), _) => (
            fields[2]
                .parse()
                .map_err(|_| UserError::User(name.to_owned()))?,
            fields[3]
                .parse()
                .map_err(|_| UserError::User(name.to_owned()))?,
            fields[0],
            fields[5],
        ),
        (None, Some(uid)) => (uid, 0, "", "/"),
        (None, None) => return Err(UserError::User(name.to_owned())),
    };
    let mut groups = Vec::new();
    match group_name.filter(|group| !group.is_empty()) {
        Some(wanted) => gid = find_group(wanted, group)?,
        // Only a plain user name brings the groups that list it.
        None => {
            for fields in lines(group).filter(|fields| fields.len() >= 4) {
                if !login.is_empty() && fields[3].split(',').any(|member| member == login) {
                    groups.extend(fields[2].parse::<u32>().ok());
                }
            }
        }
    }
    for wanted in add {
        groups.push(find_group(wanted, group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let home = if home.is_empty() { "/" } else { home };
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

fn find_group(wanted: &str, text: &str) -> Result<u32, UserError> {
    let named = lines(text)
        .find(|fields| fields.len() >= 3 && fields[0] == wanted)
        .and_then(|fields| fields[2].parse().ok());
    named
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| UserError::Group(wanted.to_owned()))
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(|line| line.trim_end().split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:web,root\nvideo:x:44:\n";

    #[track_caller]
    fn check(user: &str, add: &[&str], expect: (u32, u32, &[u32], &str)) {
        let add: Vec<String> = add.iter().map(|name| (*name).to_owned()).collect();
        let found = resolve(user, PASSWD, GROUP, &add).unwrap();
        assert_eq!(
            (found.uid, found.gid, &found.groups[..], found.home.as_str()),
            expect
        );
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", &[], (0, 0, &[4], "/root"));
        check("web", &[], (33, 34, &[4], "/var/www"));
        check("33", &["video"], (33, 34, &[4, 44], "/var/www"));
        check("web:video", &[], (33, 44, &[], "/var/www"));
        check("1000:1000", &[], (1000, 1000, &[], "/"));
        check("1000", &["7"], (1000, 0, &[7], "/"));
        assert!(resolve("nobody", PASSWD, GROUP, &[]).is_err());
        assert!(resolve("web:nobody", PASSWD, GROUP, &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_file_is_survived(user in "\\PC{0,12}", passwd in "\\PC{0,80}", group in "\\PC{0,80}") {
            let _ = resolve(&user, &passwd, &group, &[]);
        }
    }
}
