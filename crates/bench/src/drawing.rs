//! A drawing of lines, discs and words that can be had as SVG and as PNG: the same picture, once for browsers, once for everything else.
//!
//! The PNG's letters are an 8 x 8 bitmap font, so that no font of the machine is needed.

use anyhow::Context;
use font8x8::UnicodeFonts;
use std::fmt::Write;

/// Red, green, blue.
pub type Colour = [u8; 3];

/// Which point of a text is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

#[derive(Clone, Debug)]
enum Item {
    Line { points: Vec<(f64, f64)>, colour: Colour, width: f64 },
    Disc { at: (f64, f64), radius: f64, colour: Colour },
    Text { at: (f64, f64), anchor: Anchor, text: String, colour: Colour },
}

/// What is drawn, later over earlier, on white. Coordinates are pixels of the SVG, from the upper left corner.
#[derive(Clone, Debug)]
pub struct Drawing {
    width: u32,
    height: u32,
    items: Vec<Item>,
}

/// Pixels of the PNG per pixel of the SVG.
const SCALE: u32 = 2;
/// The width of a letter in pixels of the SVG.
const LETTER: f64 = 8.0;

impl Drawing {
    /// An empty one.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, items: Vec::new() }
    }

    /// A line through these points.
    pub fn line(&mut self, points: Vec<(f64, f64)>, colour: Colour, width: f64) {
        self.items.push(Item::Line { points, colour, width });
    }

    /// A filled circle.
    pub fn disc(&mut self, at: (f64, f64), radius: f64, colour: Colour) {
        self.items.push(Item::Disc { at, radius, colour });
    }

    /// Words on one line; `at` is on their base line.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, text: impl Into<String>, colour: Colour) {
        self.items.push(Item::Text { at, anchor, text: text.into(), colour });
    }

    /// As SVG.
    pub fn svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for item in &self.items {
            let _ = match item {
                Item::Line { points, colour, width } => {
                    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                    let points = points.join(" ");
                    writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"/>", hex(*colour))
                }
                Item::Disc { at: (x, y), radius, colour } => {
                    writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{}\"/>", hex(*colour))
                }
                Item::Text { at: (x, y), anchor, text, colour } => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{}\">{text}</text>", hex(*colour))
                }
            };
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// As PNG, twice the size. An error only if it is larger than a PNG can be.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        let mut canvas = Canvas::new(self.width * SCALE, self.height * SCALE);
        let scale = f64::from(SCALE);
        for item in &self.items {
            match item {
                Item::Line { points, colour, width } => {
                    for ends in points.windows(2) {
                        canvas.line(scaled(ends[0], scale), scaled(ends[1], scale), width * scale / 2.0, *colour);
                    }
                }
                Item::Disc { at, radius, colour } => canvas.disc(scaled(*at, scale), radius * scale, *colour),
                Item::Text { at: (x, y), anchor, text, colour } => {
                    let length = text.chars().count() as f64 * LETTER;
                    let left = match anchor {
                        Anchor::Start => *x,
                        Anchor::Middle => x - length / 2.0,
                        Anchor::End => x - length,
                    };
                    canvas.text((left * scale) as i64, ((y - LETTER) * scale) as i64, text, *colour);
                }
            }
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, canvas.width, canvas.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().context("cannot write a PNG")?;
        writer.write_image_data(&canvas.pixels).context("cannot write a PNG")?;
        writer.finish().context("cannot write a PNG")?;
        Ok(bytes)
    }
}

fn scaled((x, y): (f64, f64), scale: f64) -> (f64, f64) {
    (x * scale, y * scale)
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: u32, height: u32) -> Self {
        Self { width, height, pixels: vec![0xff; (width * height * 3) as usize] }
    }

    /// Outside of the canvas there is nothing to paint.
    fn paint(&mut self, x: i64, y: i64, colour: Colour) {
        if (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y) {
            let at = (y as usize * self.width as usize + x as usize) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    fn disc(&mut self, (x, y): (f64, f64), radius: f64, colour: Colour) {
        let reach = radius.ceil() as i64;
        for down in -reach..=reach {
            for right in -reach..=reach {
                if (right * right + down * down) as f64 <= radius * radius {
                    self.paint(x.round() as i64 + right, y.round() as i64 + down, colour);
                }
            }
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), radius: f64, colour: Colour) {
        let (right, down) = (to.0 - from.0, to.1 - from.1);
        let steps = (right.hypot(down).ceil() as u32).max(1);
        for step in 0..=steps {
            let share = f64::from(step) / f64::from(steps);
            self.disc((from.0 + right * share, from.1 + down * share), radius, colour);
        }
    }

    fn text(&mut self, left: i64, top: i64, text: &str, colour: Colour) {
        let scale = i64::from(SCALE);
        for (place, letter) in text.chars().enumerate() {
            let Some(rows) = font8x8::BASIC_FONTS.get(letter) else { continue };
            for (row, bits) in rows.iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    for sub in 0..scale * scale {
                        let x = left + (place as i64 * 8 + column) * scale + sub % scale;
                        self.paint(x, top + row as i64 * scale + sub / scale, colour);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn picture() -> Drawing {
        let mut drawing = Drawing::new(60, 40);
        drawing.line(vec![(0.0, 20.0), (60.0, 20.0)], [255, 0, 0], 2.0);
        drawing.disc((30.0, 10.0), 4.0, [0, 0, 255]);
        drawing.text((55.0, 38.0), Anchor::End, "a<b", [0, 0, 0]);
        drawing
    }

    #[test]
    fn the_png_shows_what_was_drawn() {
        let bytes = picture().png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let at = |x: usize, y: usize| &pixels[(y * 120 + x) * 3..][..3];
        assert_eq!(at(60, 40), [255, 0, 0]);
        assert_eq!(at(60, 20), [0, 0, 255]);
        assert_eq!(at(2, 2), [255, 255, 255]);
        assert!((62..110).any(|x| (60..76).any(|y| at(x, y) == [0, 0, 0])), "no letter");
    }

    #[test]
    fn the_svg_escapes_words() {
        let svg = picture().svg();
        assert!(svg.contains("a&lt;b") && svg.contains("#ff0000"), "{svg}");
    }

    #[test]
    fn what_is_outside_is_cut_off() {
        let mut drawing = Drawing::new(10, 10);
        drawing.line(vec![(-100.0, -100.0), (100.0, 100.0)], [1, 2, 3], 4.0);
        drawing.text((9.0, 200.0), Anchor::Start, "far away", [0, 0, 0]);
        assert!(drawing.png().is_ok());
    }
}
