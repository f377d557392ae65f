//! Who may change things: root, and for ending the machine also the group wheel. There is no polkit.

use std::fs;
use std::path::Path;

use syscalls::socket::Credentials;

use crate::dispatch::Access;

/// May this peer call a method of this access?
pub(crate) fn allowed(access: Access, peer: Credentials, root: &Path) -> bool {
    match access {
        Access::All => true,
        Access::Root => peer.uid == 0,
        Access::Wheel => peer.uid == 0 || is_in_wheel(peer, root),
    }
}

/// By the user database, not by the process: what a process may do must not depend on how it was started.
fn is_in_wheel(peer: Credentials, root: &Path) -> bool {
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let group = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    is_member("wheel", peer.uid, peer.gid, &passwd, &group)
}

fn is_member(name: &str, uid: u32, gid: u32, passwd: &str, groups: &str) -> bool {
    let Some(line) = groups
        .lines()
        .find(|line| line.split(':').next() == Some(name))
    else {
        return false;
    };
    let mut fields = line.split(':').skip(2);
    if fields.next().and_then(|id| id.parse().ok()) == Some(gid) {
        return true;
    }
    let user = user_name(uid, passwd);
    user.is_some_and(|user| {
        fields
            .next()
            .is_some_and(|members| members.split(',').any(|m| m.trim() == user))
    })
}

/// Name of a user id.
pub(crate) fn user_name(uid: u32, passwd: &str) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let passwd = "root:x:0:0::/root:/bin/sh\ncore:x:500:500::/home/core:/bin/bash\nx:x:600:600::/:/bin/sh\n";
        let group = "root:x:0:\nwheel:x:10:core\n";
        for (uid, gid, expect) in [
            (500, 500, true),
            (600, 600, false),
            (600, 10, true),
            (700, 700, false),
        ] {
            assert_eq!(
                is_member("wheel", uid, gid, passwd, group),
                expect,
                "{uid}:{gid}"
            );
        }
        assert!(!is_member("wheel", 500, 500, passwd, "root:x:0:\n"));
        assert!(!is_member("wheel", 500, 500, "garbage", "wheel"));
    }
}
