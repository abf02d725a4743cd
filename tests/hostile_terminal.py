"""Two hundred texts, and more, that would steer a terminal, if one got them as they are.

Each would colour, clear, move, link, retitle, copy, answer back, reorder or hide; or would be taken
for markup by the library that writes to the terminal.
"""

ESC, BEL, ST = "\x1b", "\x07", "\x1b\\"

# Every control character alone: C0, DEL and C1. A line's end is none, nor is a tab, which stays a
# blank.
CONTROLS = [f"a{chr(code)}b" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if code != 0x0A]

# What follows ESC [, or the C1 character that stands for both.
_CSI = [
    "31m",  # colour
    "8m",  # concealed
    "5;7m",  # blinking, reversed
    "38;5;196m",
    "48;2;255;0;0m",
    "0m",
    "2J",  # clear the screen
    "3J",  # and what was scrolled away
    "H",
    "1;1H",
    "999B",
    "5A",
    "80D",
    "10C",
    "G",
    "K",
    "1K",
    "2K",
    "5L",
    "5M",
    "10P",
    "4X",
    "3S",
    "3T",
    "?25l",  # hide the cursor
    "?1049h",  # another screen
    "?2004h",  # bracketed paste
    "?1000h",  # report the mouse
    "?1006h",
    "?7l",
    "?5h",
    "4h",
    "c",  # who are you: the answer is typed
    "6n",  # where is the cursor: the same
    "5n",
    ">c",
    "=c",
    "21t",  # report the title
    "8;10;10t",  # resize
    "3;0;0t",
    "s",
    "u",
    "!p",
    "1;5r",
    "2 q",
    "200~rm -rf /\x1b[201~",
]

# What follows ESC ], or the C1 character that stands for both.
_OSC = [
    "0;title",
    "1;icon",
    "2;title",
    "4;1;rgb:ff/00/00",
    "4;1;?",
    "7;file:///etc/passwd",
    "8;;http://127.0.0.1:9/",
    "8;id=x;javascript:alert(1)",
    "9;notify",
    "10;#000000",
    "11;#000000",
    "12;?",
    "22;pointer",
    "50;font",
    "52;c;cm0gLXJmIC8K",  # the clipboard
    "52;p;?",
    "104",
    "112",
    "133;A",
    "633;E;rm",
    "777;notify;a;b",
    "1337;File=inline=1:AAAA",
    "1337;CopyToClipboard=x",
    "1337;SetUserVar=a=b",
]

_STRINGS = [
    f"{ESC}P0;0;0q#0;2;0;0;0#0~~@@vv@@~~@@~~$-{ST}",  # a picture
    f"{ESC}P$q q{ST}",
    f"{ESC}P+q544e{ST}",
    f"{ESC}P1000p%begin{ST}",
    "\x90q~~\x9c",
    f"{ESC}_Gf=100,a=T;AAAA{ST}",  # a picture, another way
    "\x9fGa=d\x9c",
    f"{ESC}^private{ST}",
    f"{ESC}Xstring{ST}",
    f"{ESC}k tmux{ST}",
    f"{ESC}c",  # start anew
    f"{ESC}#8",
    f"{ESC}(0lqqk",
    f"{ESC})0\x0elqqk\x0f",
    f"{ESC}%@",
    f"{ESC}%G",
    f"{ESC}7{ESC}8",
    f"{ESC}D{ESC}E{ESC}M",
    f"{ESC}N{ESC}O",
    f"{ESC}=",
    f"{ESC}>",
    f"{ESC}l{ESC}m",
    f"{ESC}n{ESC}o",
    f"{ESC}|",
    f"{ESC}~",
    f"{ESC}",
    f"text{ESC}[",
    f"text{ESC}]0;never ended",
    f"{ESC}{ESC}[31m",
    f"{ESC}\u200d[31m",
    f"{ESC}\x00[31m",
    f"\u202e{ESC}[31m",
    f"{ESC}[38:2::255:0:0m",
    f"{ESC}[{';' * 40}m",
    f"{ESC}[31{BEL}m",
    "\x9b\x9b31m",
    "password: \x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08hidden",
    "error: none\rok         ",
    "line\rother",
    "a\x0bb\x0cc",
    "nul\x00in the middle",
    "\x1a\x1c\x1d\x1e\x1f",
    "%s%n%x",
    "$(tput reset) `reset`",
]

# What Rich would obey in a string of its own.
_MARKUP = [
    "[bold]b[/bold]",
    "[red]r[/red]",
    "[/]",
    "[/INST]",
    "[INST] [/INST]",
    "[/bold]",
    "[bold",
    "[[bold]]",
    "\\[bold]x",
    "\\\\[bold]x[/]",
    "[link=http://127.0.0.1:9/]x[/link]",
    "[link]http://127.0.0.1:9/[/link]",
    "[@click=app.bell]x[/]",
    "[on red]x[/on red]",
    "[#ff0000]x[/]",
    "[blink reverse]x[/]",
    "[conceal]x[/]",
    "[not bold]x[/not bold]",
    "[rgb(1,2,3)]x[/]",
    "[color(5)]x[/]",
    "[default on default]x[/]",
    "[white on white]x[/]",
    "[repr.url]x[/]",
    ":warning: :smile: :no_entry:",
    ":smile-text:",
    "[1, 100]",
    "http://127.0.0.1:9/ www.example.org mailto:a@b",
    "file:///etc/passwd",
]

# Direction, invisible characters, separators, halves of characters.
_FORMAT = [
    *(f"a{chr(code)}b" for code in range(0x202A, 0x202F)),
    *(f"a{chr(code)}b" for code in range(0x2066, 0x206A)),
    *(f"a{character}b" for character in "\u200b\u200e\u200f\u061c\u2060\u2061\u2062\u2063\u2064"),
    *(f"a{character}b" for character in "\u206a\u206b\u206c\u206d\u206e\u206f\ufeff\u00ad\u180e"),
    *(f"a{character}b" for character in "\u2028\u2029\ufff9\ufffa\ufffb\U000e0001\U000e0041"),
    *(f"a{character}b" for character in "\ud800\udbff\udc00\udfff"),
    "invoice\u202efdp.exe",
    "\u202egnp.\u202dxx\u202c",
    "if access\u2066 // only\u2069\u2066 admin\u2069",
    "\u2067\u2066\u2069\u2069",
    "\U000e0069\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065",
]

PAYLOADS = [
    *CONTROLS,
    *(f"{ESC}[{body}" for body in _CSI),
    *(f"\x9b{body}" for body in _CSI[:12]),
    *(f"{ESC}]{body}{BEL}" for body in _OSC),
    *(f"{ESC}]{body}{ST}" for body in _OSC[:8]),
    *(f"\x9d{body}\x9c" for body in _OSC[:8]),
    *_STRINGS,
    *_MARKUP,
    *_FORMAT,
]
