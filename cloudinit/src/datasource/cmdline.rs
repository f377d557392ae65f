//! The kernel command line: words, and what they say about user data. Pure.

/// The words of a command line; double quotes keep blanks together and are dropped.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.trim_end_matches(['\n', '\0']).chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The value of an argument: underscores equal dashes, the last one wins, one without value is ignored.
pub fn value(words: &[String], name: &str) -> Option<String> {
    let wanted = name.replace('_', "-");
    words.iter().rev().find_map(|word| {
        let (key, value) = word.split_once('=')?;
        (key.replace('_', "-") == wanted && !value.is_empty()).then(|| value.to_owned())
    })
}

/// The value of `coreos.NAME=`, `flatcar.NAME=` or `flotilla.NAME=`; the last of all wins.
pub fn prefixed_value(words: &[String], name: &str) -> Option<String> {
    words.iter().rev().find_map(|word| {
        let (key, value) = word.split_once('=')?;
        let (prefix, rest) = key.split_once('.')?;
        (["coreos", "flatcar", "flotilla"].contains(&prefix) && rest == name && !value.is_empty())
            .then(|| value.to_owned())
    })
}

/// The address of a document: `cloud-config-url=`, or `*.config.url=`.
pub fn config_url(words: &[String]) -> Option<String> {
    value(words, "cloud-config-url").or_else(|| prefixed_value(words, "config.url"))
}

/// Whether config drives may be used; `*.configdrive=0` says no.
pub fn drives_allowed(words: &[String]) -> bool {
    prefixed_value(words, "configdrive").is_none_or(|v| v != "0")
}

/// Keys of `sshkey="..."`.
pub fn ssh_key(words: &[String]) -> Option<String> {
    value(words, "sshkey")
}

/// What `ds=nocloud;...` says, on the command line or as a serial number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    /// Host name.
    pub hostname: String,
    /// Instance id.
    pub instance_id: String,
    /// Where the files are: `http(s)://…/` or `file://…/`.
    pub from: String,
}

/// Reads `nocloud;h=…;i=…;s=…` (also by the old name `nocloud-net`).
pub fn seed(text: &str) -> Option<Seed> {
    let mut parts = text.split(';');
    if !matches!(parts.next()?.trim(), "nocloud" | "nocloud-net") {
        return None;
    }
    let mut seed = Seed::default();
    for part in parts {
        let Some((key, value)) = part.split_once('=') else {
            continue;
        };
        let slot = match key.trim() {
            "h" | "local-hostname" => &mut seed.hostname,
            "i" | "instance-id" => &mut seed.instance_id,
            "s" | "seedfrom" => &mut seed.from,
            _ => continue,
        };
        value.trim().clone_into(slot);
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_as_the_kernel_writes_them() {
        let line = "quiet cloud_config_url=http://a/1 sshkey=\"ssh-rsa AAA me\" \
                    cloud-config-url=http://b/2 cloud-config-url= coreos.configdrive=1 flotilla.configdrive=0\n";
        let words = words(line);
        assert_eq!(config_url(&words).as_deref(), Some("http://b/2"));
        assert_eq!(ssh_key(&words).as_deref(), Some("ssh-rsa AAA me"));
        assert!(!drives_allowed(&words));
        assert_eq!(
            config_url(&super::words("a b flatcar.config.url=http://c")).as_deref(),
            Some("http://c")
        );
        assert_eq!(
            value(&super::words("root=LABEL=ROOT"), "root").as_deref(),
            Some("LABEL=ROOT")
        );
    }

    #[test]
    fn seeds_are_read() {
        let got = seed("nocloud;h=web;i=i-1;seedfrom=http://10.0.2.2/x/").unwrap();
        assert_eq!(
            got,
            Seed {
                hostname: "web".into(),
                instance_id: "i-1".into(),
                from: "http://10.0.2.2/x/".into()
            }
        );
        assert_eq!(seed("nocloud-net"), Some(Seed::default()));
        assert_eq!(seed("openstack"), None);
    }
}
