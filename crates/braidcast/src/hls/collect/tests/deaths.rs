//! A collector that dies, and the next one that goes on from the directories alone.

use super::*;

/// What a collector had done when it died.
type Step<'a> = (String, Box<dyn Fn(&Site) + 'a>);

/// A death after each step of taking a segment: one that follows, and one that does not.
#[test]
fn a_death_between_any_two_steps_changes_nothing() {
    for breaks in [false, true] {
        // How it is without a death.
        let prepare = |site: &mut Site| {
            let source = site.source(1);
            serve_segments(&source, 0, 0, 2, &[]);
            assert_eq!(site.taken().len(), 2);
            serve_segments(&source, 0, 2, 3, if breaks { &[2] } else { &[] });
        };
        let mut whole = Site::new();
        prepare(&mut whole);
        let third = whole.taken().remove(0);
        assert_eq!((third.number, third.discontinuity), (3, breaks));
        let expected = whole.index();
        let finished = whole.hls();
        let packet = third.to_packet();
        let source_file = |site: &Site| fs::write(site.hls().join("source"), fs::read(finished.join("source")).unwrap()).unwrap();
        let append = |site: &Site, bytes: usize| {
            let path = site.source(1).join("2.ts");
            let content = [media(), packet[..bytes].to_vec()].concat();
            std::thread::sleep(Duration::from_millis(8));
            fs::write(path, content).unwrap();
        };
        let rename = |site: &Site| fs::rename(site.source(1).join("2.ts"), site.hls().join("3.ts")).unwrap();
        let copy = |site: &Site, name: &str| assert!(fs::copy(finished.join(name), site.hls().join(name)).unwrap() > 0);
        let mut steps: Vec<Step<'_>> = vec![
            ("nothing".into(), Box::new(|_: &Site| {})),
            ("announced".into(), Box::new(source_file)),
            ("a temporary file".into(), Box::new(|site: &Site| fs::write(site.hls().join(".source.tmp"), "BRA").unwrap())),
        ];
        for bytes in [1, 3, 11, 12, 100, 187, 188] {
            steps.push((
                format!("{bytes} bytes of the packet"),
                Box::new(move |site: &Site| {
                    source_file(site);
                    append(site, bytes);
                }),
            ));
        }
        steps.push((
            "moved".into(),
            Box::new(|site: &Site| {
                source_file(site);
                append(site, 188);
                rename(site);
            }),
        ));
        steps.push((
            "named".into(),
            Box::new(|site: &Site| {
                source_file(site);
                append(site, 188);
                rename(site);
                copy(site, INDEX);
            }),
        ));
        steps.push((
            "saved".into(),
            Box::new(|site: &Site| {
                source_file(site);
                append(site, 188);
                rename(site);
                copy(site, INDEX);
                copy(site, "state");
            }),
        ));
        for (name, step) in steps {
            let mut site = Site::new();
            prepare(&mut site);
            step(&site);
            site.collector_dies();
            site.look();
            assert_eq!(site.index(), expected, "{breaks} {name}");
            let bytes = fs::read(site.hls().join("3.ts")).unwrap();
            assert_eq!(bytes.len(), (PACKETS + 1) * PACKET_BYTES, "{name}: one packet of ours");
            let info = SegmentInfo::of_segment(&bytes).unwrap();
            let times = |info: &SegmentInfo| {
                (info.number, info.media_start_90k, info.media_end_90k, info.discontinuity, info.discontinuity_sequence)
            };
            assert_eq!(times(&info), times(&third), "{name}");
            assert_eq!(tree_of(&site.source(1)).len(), 1, "{name}: the playlist is left");
            // And what comes then follows.
            serve_segments(&site.source(1), 1, 3, 4, if breaks { &[2] } else { &[] });
            let infos = site.taken();
            assert_eq!((numbers(&infos), broken(&infos)), (vec![4], vec![]), "{breaks} {name}");
        }
    }
}

#[test]
fn a_death_after_a_segment_was_passed_over_leaves_the_discontinuity() {
    let mut site = Site::new();
    let source = site.source(1);
    serve_segments(&source, 0, 0, 2, &[]);
    assert_eq!(site.taken().len(), 2);
    serve_segments(&source, 0, 2, 2, &[]);
    fs::write(source.join("2.ts"), "damaged").unwrap();
    write_playlist(&source, 0, "#EXTINF:2,\n0.ts\n#EXTINF:2,\n1.ts\n#EXTINF:2,\n2.ts\n");
    assert_eq!(site.look()[0].refused, 1);
    site.collector_dies();
    serve_segments(&source, 0, 3, 4, &[]);
    let infos = site.taken();
    assert_eq!((numbers(&infos), broken(&infos)), (vec![3], vec![3]));
}
