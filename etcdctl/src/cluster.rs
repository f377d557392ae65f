//! `cluster-health` and `member list`.

use std::time::Duration;

use etcd_kv::{EtcdConfig, EtcdKv, Kv, KvError, Member, ServerStatus};

/// Time for one server to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one server, in the way the others are asked.
async fn ask(url: &str, config: &EtcdConfig) -> Result<ServerStatus, KvError> {
    let config = EtcdConfig {
        endpoints: EtcdConfig::new(&[url])?.endpoints,
        request_timeout: PATIENCE,
        ..config.clone()
    };
    EtcdKv::new(config).status().await
}

/// `member list`.
pub(crate) async fn list(kv: &EtcdKv) -> Result<String, KvError> {
    let members = kv.members().await?;
    let leader = kv.status().await?.leader;
    Ok(members.iter().map(|member| line(member, leader)).collect())
}

fn line(member: &Member, leader: u64) -> String {
    let peers = member.peer_urls.join(",");
    if member.name.is_empty() {
        return format!("{:x}[unstarted]: peerURLs={peers}\n", member.id);
    }
    format!(
        "{:x}: name={} peerURLs={peers} clientURLs={} isLeader={}\n",
        member.id,
        member.name,
        member.client_urls.join(","),
        member.id == leader
    )
}

/// `cluster-health`: a line a member and the verdict; whether all is well.
pub(crate) async fn health(config: EtcdConfig) -> Result<(String, bool), KvError> {
    let kv = EtcdKv::new(config.clone());
    let mut text = String::new();
    let mut healthy = 0;
    let members = kv.members().await?;
    for member in &members {
        if member.client_urls.is_empty() {
            text += &format!(
                "member {:x} is unreachable: no available published client urls\n",
                member.id
            );
            continue;
        }
        let mut found = false;
        for url in &member.client_urls {
            match ask(url, &config).await {
                Ok(status) if status.leader != 0 => {
                    text += &format!(
                        "member {:x} is healthy: got healthy result from {url}\n",
                        member.id
                    );
                    found = true;
                }
                Ok(_) => {
                    text += &format!(
                        "member {:x} is unhealthy: got unhealthy result from {url}\n",
                        member.id
                    );
                    found = true;
                    healthy -= 1;
                }
                Err(err) => {
                    text += &format!(
                        "failed to check the health of member {:x} on {url}: {err}\n",
                        member.id
                    );
                    continue;
                }
            }
            break;
        }
        if found {
            healthy += 1;
        } else {
            let all = member.client_urls.join(" ");
            text += &format!(
                "member {:x} is unreachable: [{all}] are all unreachable\n",
                member.id
            );
        }
    }
    let well = healthy == members.len() as i32;
    text += match (well, healthy > members.len() as i32 / 2) {
        (true, _) => "cluster is healthy\n",
        (false, true) => "cluster is degraded\n",
        (false, false) => "cluster is unavailable\n",
    };
    Ok((text, well))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_one_line_each() {
        let member = Member {
            id: 0x886b_03c4_ae67_9a15,
            name: "default".into(),
            peer_urls: vec!["http://127.0.0.1:24800".into()],
            client_urls: vec!["http://127.0.0.1:24790".into()],
            learner: false,
        };
        assert_eq!(
            line(&member, member.id),
            "886b03c4ae679a15: name=default peerURLs=http://127.0.0.1:24800 clientURLs=http://127.0.0.1:24790 isLeader=true\n"
        );
        let unstarted = Member {
            name: String::new(),
            ..member
        };
        assert_eq!(
            line(&unstarted, 0),
            "886b03c4ae679a15[unstarted]: peerURLs=http://127.0.0.1:24800\n"
        );
    }
}
