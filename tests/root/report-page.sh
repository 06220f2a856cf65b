#!/usr/bin/env bash
# The report's pages in a real browser: a run of the lab, an experiment and a run of 100 000 segments,
# on a phone's width and a desktop's, light and dark. Shows that nothing is wider than the window, that
# the console stays empty, that the page follows the reader's scheme, that every plot has its words,
# that the experiment prints with what is folded in it, and that the page of the run was left by the run
# itself. Screenshots stay in $SCREENSHOTS, if set.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
have chromium || cannot_run "chromium not found"
have pdftotext || cannot_run "pdftotext not found"

# A browser's start-up takes seconds on a busy machine, and it writes a profile.
browse() { # ARGUMENTS...
    timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
        --user-data-dir="$WORK/browser" --allow-file-access-from-files --enable-logging=stderr "$@" 2>>"$WORK/console"
}

# A window as narrow as a phone is more than a headless browser makes, so the page is put in a frame,
# whose owner measures it: what stands beyond the right edge, and what a box of its own hides.
frame() { # PAGE WIDTH
    cat <<HTML
<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>body { margin: 0 }</style>
<iframe id="page" src="file://$1" style="border:0;display:block;width:$2px;height:1400px"></iframe><pre id="found"></pre>
<script>
document.getElementById("page").onload = ({target}) => {
    const page = target.contentDocument, root = page.documentElement;
    for (const details of page.querySelectorAll("details")) details.open = true;
    const beyond = [...page.body.querySelectorAll("*")].filter(element =>
        element.getBoundingClientRect().right > root.clientWidth + 1 ||
        (["auto", "scroll"].includes(getComputedStyle(element).overflowX) && element.scrollWidth > element.clientWidth));
    const plots = [...page.querySelectorAll("[role=img]")];
    document.getElementById("found").textContent = "FOUND " + JSON.stringify({
        width: root.clientWidth, scroll: root.scrollWidth,
        beyond: beyond.slice(0, 5).map(element => element.outerHTML.slice(0, 120)),
        plots: plots.length, wordless: plots.filter(plot => !plot.getAttribute("aria-label")).length,
        dark: target.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
        background: target.contentWindow.getComputedStyle(page.body).backgroundColor,
        height: root.scrollHeight,
    }) + " END";
    for (const details of page.querySelectorAll("details")) details.open = details === page.querySelector("details");
};
</script>
HTML
}

look() { # NAME PAGE
    local name=$1 page=$2 width scheme flag found
    for width in 390 980 1280; do
        for scheme in light dark; do
            flag=(--blink-settings=preferredColorScheme=1)
            [ "$scheme" = light ] || flag=(--force-dark-mode)
            frame "$page" "$width" >"$WORK/frame.html"
            : >"$WORK/console"
            found=$(browse "${flag[@]}" --virtual-time-budget=20000 --dump-dom "file://$WORK/frame.html" |
                grep -o 'FOUND {.*} END' | tail -n 1 | sed 's/^FOUND //; s/ END$//; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g')
            [ -n "$found" ] || fail "$name, $width, $scheme: the page did not load: $(tail -n 5 "$WORK/console")"
            echo "== $name at $width px, $scheme: $(jq -c 'del(.beyond)' <<<"$found")"
            expect "$name at $width px: width" "$(jq .width <<<"$found")" -eq "$width"
            expect "$name at $width px: what is wider than the window" "$(jq -c .beyond <<<"$found")" = "[]"
            expect "$name at $width px: horizontal scroll" "$(jq '.scroll - .width' <<<"$found")" -le 0
            expect "$name: plots" "$(jq .plots <<<"$found")" -gt 3
            expect "$name: plots without words" "$(jq .wordless <<<"$found")" -eq 0
            expect "$name: dark" "$(jq .dark <<<"$found")" = "$([ "$scheme" = dark ] && echo true || echo false)"
            expect "$name: console messages" "$(grep -c CONSOLE "$WORK/console" || true)" -eq 0
            if [ -n "${SCREENSHOTS:-}" ]; then
                mkdir -p "$SCREENSHOTS"
                browse "${flag[@]}" --virtual-time-budget=20000 --window-size="$((width < 500 ? 500 : width)),1400" \
                    --screenshot="$SCREENSHOTS/$name-$width-$scheme.png" "file://$WORK/frame.html" >/dev/null
            fi
        done
    done
}

# On paper, what is folded on the screen must be readable; a dark screen does not make dark paper.
print_out() { # NAME PAGE WORDS-THAT-ARE-FOLDED
    local pdf=$WORK/$1.pdf text
    browse --force-dark-mode --no-pdf-header-footer --print-to-pdf="$pdf" "file://$2" >/dev/null
    expect "$1: pages on paper" "$(grep -ac '/Type /Page$' "$pdf" || true)" -gt 0
    text=$(pdftotext "$pdf" - | tr -s '[:space:]' ' ')
    expect "$1: \"$3\" on paper" "$(grep -o "$3" <<<"$text" | wc -l)" -gt 0
    [ -z "${SCREENSHOTS:-}" ] || cp "$pdf" "$SCREENSHOTS"
}

page_of() { # DIR
    "$TWINLINK_BIN" report "$1" >"$WORK/table"
    expect "$(basename "$1"): bytes of the page" "$(stat -c %s "$1/report.html")" -lt 5000000
}

"$ROOT/netem/lab.sh" -- --link-a rate-80 --link-b rate-20 --files 's{001..060}.m4s' --results "$WORK/results" >"$WORK/stdout"
run=$(find "$WORK/results" -mindepth 1 -maxdepth 1 -type d)
[ -f "$run/report.html" ] || fail "the run left no report.html beside its log"
expect "words of the page" "$(grep -c 'adaptive fetched 60 files' "$run/report.html")" -ge 1
look run "$run/report.html"

python3 "$ROOT/tests/report-logs.py" sweep "$WORK/sweep"
page_of "$WORK/sweep"
look sweep "$WORK/sweep/report.html"
print_out sweep "$WORK/sweep/report.html" "longer than best"

python3 "$ROOT/tests/report-logs.py" sweep "$WORK/long" --repetitions 2 --long-names
page_of "$WORK/long"
look long "$WORK/long/report.html"

python3 "$ROOT/tests/report-logs.py" run "$WORK/large" --segments 100000
page_of "$WORK/large"
look large "$WORK/large/report.html"
