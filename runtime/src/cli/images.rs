//! `images rmi tag`.

use super::args::{Args, Flag, switch, value};
use super::{Context, Failure, table};
use crate::template::Template;
use crate::time;
use oci_image::store::{Image, Target};
use oci_image::{Digest, Reference, Store};
use serde_json::json;
use std::time::SystemTime;

/// Flags of `images`.
pub const LIST: &[Flag] = &[
    switch("all", 'a', "All images"),
    switch("digests", '\0', "Show digests"),
    value("filter", 'f', "dangling=true, label=…, reference=…"),
    value("format", '\0', "Go template"),
    switch("no-trunc", '\0', "Full ids"),
    switch("quiet", 'q', "Ids only"),
];
/// Flags of `rmi`.
pub const REMOVE: &[Flag] = &[
    switch(
        "force",
        'f',
        "Remove although it has several names or stopped containers",
    ),
    switch("no-prune", '\0', "Keep layers"),
];

struct Row {
    name: Option<Reference>,
    image: Image,
    created: String,
}

/// `docker images`.
pub fn list(context: &Context, args: &Args) -> Result<i32, Failure> {
    let store = context.host.look()?;
    let mut rows = rows(&store)?;
    if let Some(wanted) = args.words.first() {
        let name: Reference = wanted
            .parse()
            .map_err(|_| Failure::daemon("invalid reference format".into()))?;
        let tagged = wanted
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
        rows.retain(|row| {
            row.name.as_ref().is_some_and(|known| {
                (&known.registry, &known.repository) == (&name.registry, &name.repository)
                    && (!tagged || known.tag == name.tag)
            })
        });
    }
    for filter in args.all("filter") {
        apply_filter(&store, &mut rows, filter)?;
    }
    rows.sort_by(|left, right| {
        right
            .created
            .cmp(&left.created)
            .then_with(|| left.name.cmp(&right.name))
    });
    let now = SystemTime::now();
    let id = |image: &Image| {
        if args.on("no-trunc") {
            image.id.to_string()
        } else {
            image.id.short().to_owned()
        }
    };
    if args.on("quiet") {
        for row in &rows {
            println!("{}", id(&row.image));
        }
        return Ok(0);
    }
    if let Some(format) = args.get("format") {
        let template = Template::parse(format.strip_prefix("table ").unwrap_or(format))
            .map_err(|error| Failure::plain(1, error.to_string()))?;
        for row in &rows {
            let (repository, tag) = names(row);
            let value = json!({"ID": id(&row.image), "Repository": repository, "Tag": tag, "Digest": row.image.manifest, "CreatedSince": time::ago(&row.created, now) + " ago", "CreatedAt": row.created, "Size": table::size(row.image.size)});
            println!(
                "{}",
                template
                    .render(&value)
                    .map_err(|error| Failure::plain(1, error.to_string()))?
            );
        }
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (repository, tag) = names(row);
            let mut cells = vec![repository, tag];
            if args.on("digests") {
                cells.push(row.image.manifest.to_string());
            }
            let age = if time::parse(&row.created).is_some() {
                time::ago(&row.created, now) + " ago"
            } else {
                "N/A".into()
            };
            cells.extend([id(&row.image), age, table::size(row.image.size)]);
            cells
        })
        .collect();
    let heads: &[&str] = if args.on("digests") {
        &["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]
    } else {
        &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    };
    print!("{}", table::render(heads, &cells));
    Ok(0)
}

fn names(row: &Row) -> (String, String) {
    match &row.name {
        Some(name) => (
            name.familiar_repository(),
            name.tag.clone().unwrap_or_else(|| "<none>".into()),
        ),
        None => ("<none>".into(), "<none>".into()),
    }
}

fn rows(store: &Store) -> Result<Vec<Row>, Failure> {
    let references = store.references()?;
    let mut rows = Vec::new();
    for image in store.images()? {
        let created = store
            .config(&image.id)
            .ok()
            .and_then(|config| config.created)
            .unwrap_or_default();
        let mut named = false;
        for (name, target) in &references {
            if target.image == image.id {
                named = true;
                rows.push(Row {
                    name: Some(name.clone()),
                    image: image.clone(),
                    created: created.clone(),
                });
            }
        }
        if !named {
            rows.push(Row {
                name: None,
                image,
                created,
            });
        }
    }
    Ok(rows)
}

fn apply_filter(store: &Store, rows: &mut Vec<Row>, filter: &str) -> Result<(), Failure> {
    let (key, wanted) = filter.split_once('=').ok_or_else(|| Failure::plain(1, format!("invalid argument {filter:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)")))?;
    match key {
        "dangling" => rows.retain(|row| row.name.is_none() == (wanted == "true" || wanted == "1")),
        "reference" => rows.retain(|row| {
            row.name.as_ref().is_some_and(|name| {
                super::list::matches(wanted, &name.familiar_repository())
                    || super::list::matches(wanted, &name.to_string())
            })
        }),
        "label" => {
            let (label, value) = wanted
                .split_once('=')
                .map_or((wanted, None), |(label, value)| (label, Some(value)));
            rows.retain(|row| {
                store.config(&row.image.id).is_ok_and(|config| {
                    config
                        .config
                        .labels
                        .get(label)
                        .is_some_and(|found| value.is_none_or(|value| value == found))
                })
            });
        }
        _ => return Err(Failure::daemon(format!("invalid filter '{key}'"))),
    }
    Ok(())
}

/// `docker tag`.
pub fn tag(context: &Context, args: &Args) -> Result<i32, Failure> {
    let store = context.host.store()?;
    let image = store.find(&args.words[0])?;
    let name: Reference = args.words[1].parse().map_err(|error| {
        Failure::daemon(format!(
            "Error parsing reference: {:?} is not a valid repository/tag: {error}",
            args.words[1]
        ))
    })?;
    if name.digest.is_some() {
        return Err(Failure::daemon(
            "refusing to create a tag with a digest reference".into(),
        ));
    }
    let manifest = image.manifest.clone();
    store.set_target(
        &name,
        &Target {
            manifest,
            image: image.id,
        },
    )?;
    Ok(0)
}

/// `docker rmi`.
pub fn remove(context: &Context, args: &Args) -> Result<i32, Failure> {
    let store = context.host.store()?;
    let mut code = 0;
    for word in &args.words {
        if let Err(failure) = remove_one(context, &store, word, args.on("force")) {
            failure.report();
            code = 1;
        }
    }
    Ok(code)
}

fn remove_one(context: &Context, store: &Store, word: &str, force: bool) -> Result<(), Failure> {
    let image = store.find(word)?;
    let names: Vec<Reference> = store
        .references()?
        .into_iter()
        .filter(|(_, target)| target.image == image.id)
        .map(|(name, _)| name)
        .collect();
    let named = word
        .parse::<Reference>()
        .ok()
        .filter(|name| names.contains(name));
    let last = names.len() <= 1 || named.is_none();
    if named.is_none() && names.len() > 1 && !force {
        return Err(Failure::daemon(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            image.id.short()
        )));
    }
    if last {
        in_use(context, &image.id, word, force)?;
    }
    let gone: Vec<Reference> = match &named {
        Some(name) if !last => vec![name.clone()],
        _ => names,
    };
    for name in gone {
        store.remove_target(&name)?;
        println!("Untagged: {name}");
    }
    if last {
        store.remove_image(&image.id)?;
        println!("Deleted: {}", image.id);
        for layer in store.sweep()? {
            println!("Deleted: {layer}");
        }
    }
    Ok(())
}

fn in_use(context: &Context, image: &Digest, word: &str, force: bool) -> Result<(), Failure> {
    let user = context
        .host
        .containers_now()?
        .into_iter()
        .find(|container| container.config.image_id == image.as_str());
    let Some(user) = user else { return Ok(()) };
    // The layers are the container's root: without them it could never start again, so not even -f takes them.
    let hint = match (user.running(), force) {
        (true, _) => format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
            image.short(),
            user.config.short()
        ),
        (false, true) => format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by stopped container {}",
            image.short(),
            user.config.short()
        ),
        (false, false) => format!(
            "conflict: unable to remove repository reference \"{word}\" (must force) - container {} is using its referenced image {}",
            user.config.short(),
            image.short()
        ),
    };
    Err(Failure::daemon(hint))
}
