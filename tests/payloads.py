# ruff: noqa: E501 (payloads are as long as they are)
"""Texts that run, load or break out of their place where a page takes them for anything but text.

Each would set the title or call an address, from one of many places: after a closing tag, in an
attribute, as an event, by an encoding, in a style sheet, in JSON.
"""

from itertools import product

from tests.hostile import MARKUP

AWAY = "http://127.0.0.1:9/"
RUN = "document.title='OWNED'"

# What ends the place that a text stands in, so that what follows is read as a page.
_BREAKS = (
    "</template>", "</script>", "</style>", "</title>", "</textarea>", "</noscript>", "</select>",
    "</svg>", "</dialog>", "-->", "--!>", "]]>", '">', "'>", "`>", "*/", '"}]', "\\u003c/script>",
)  # fmt: skip
_VECTORS = (
    f"<script>{RUN}</script>",
    f'<img src=x onerror="{RUN}">',
    f"<svg/onload={RUN}>",
    f"<iframe src={AWAY}></iframe>",
)

_EVENTS = (
    "onload", "onerror", "onfocus", "onblur", "onclick", "onmouseover", "onmouseenter", "ontoggle",
    "onbegin", "onend", "onanimationstart", "ontransitionend", "onpointerover", "onwheel",
    "onscroll", "onscrollend", "oncopy", "oninput", "onbeforeprint", "onhashchange", "onpageshow",
    "onresize", "onmessage", "onbeforematch", "oncontentvisibilityautostatechange",
)  # fmt: skip
_HANDLED = (
    "<body {event}={run}>",
    "<input autofocus {event}={run}>",
    "<details open {event}={run}>",
    "\" {event}={run} autofocus tabindex=1 style='animation:x' x=\"",
)

_SCHEMES = (
    "javascript:", "JaVaScRiPt:", "java\tscript:", "java\nscript:", " javascript:",
    "\x01javascript:", "&#106;avascript:", "&#x6A;avascript&colon;", "javascript&#58;",
    "vbscript:", "data:text/html,<script>", "data:text/html;base64,PHNjcmlwdD4=", "view-source:",
    "blob:", "filesystem:", "jar:",
)  # fmt: skip
_LINKED = (
    "<a href='{scheme}{run}' autofocus>x</a>",
    "<iframe src='{scheme}{run}'></iframe>",
    "<object data='{scheme}{run}'></object>",
    "<svg><a xlink:href='{scheme}{run}'><text>x</text></a></svg>",
    "<form action='{scheme}{run}'><input type=submit autofocus></form>",
)

_LOADS = (
    f"<img src={AWAY}>", f"<img srcset='{AWAY} 2x'>", f"<picture><source srcset={AWAY}><img></picture>",
    f"<video src={AWAY} autoplay></video>", f"<video poster={AWAY}></video>",
    f"<audio src={AWAY} autoplay></audio>", f"<embed src={AWAY}>", f"<object data={AWAY}></object>",
    f"<link rel=prefetch href={AWAY}>", f"<link rel=preload as=script href={AWAY}>",
    f"<link rel=dns-prefetch href={AWAY}>", f"<link rel=icon href={AWAY}>",
    f"<link rel=manifest href={AWAY}>", f"<link rel=modulepreload href={AWAY}>",
    f"<script src={AWAY}></script>", f"<script type=module>import '{AWAY}'</script>",
    f"<script type=speculationrules>{{\"prefetch\":[{{\"urls\":[\"{AWAY}\"]}}]}}</script>",
    f"<svg><image href={AWAY} /></svg>", f"<svg><use href={AWAY}#x /></svg>",
    f"<svg><filter id=f><feImage href={AWAY} /></filter></svg>",
    f"<div style='background:url({AWAY})'>x</div>", f"<style>*{{background:url({AWAY})}}</style>",
    f"<style>@font-face{{font-family:x;src:url({AWAY})}}*{{font-family:x}}</style>",
    f"<style>@import url({AWAY});</style>", "<style>*{display:none!important}</style>",
    f"<meta http-equiv=refresh content='0;url={AWAY}'>", "<meta charset=utf-7>",
    f"<meta http-equiv=Content-Security-Policy content=\"script-src *\"><script>{RUN}</script>",
    f"<base href={AWAY}><a href=x autofocus>x</a>", f"<a ping={AWAY} href=#>x</a>",
    f"<iframe srcdoc=\"&lt;script&gt;parent.{RUN}&lt;/script&gt;\"></iframe>",
    f"<portal src={AWAY}></portal>", f"<body background={AWAY}>", f"<table background={AWAY}>",
    f"<track src={AWAY}>", f"<frameset><frame src={AWAY}></frameset>", f"<applet code={AWAY}>",
    f"<input type=image src={AWAY}>", f"<template shadowrootmode=open><img src={AWAY}></template>",
    f"<button popovertarget=p>x</button><div popover id=p onbeforetoggle={RUN}>x</div>",
)  # fmt: skip

# The same tag in other clothes: what decodes, normalises or drops characters would undress it.
_CLOTHES = (
    "&lt;script&gt;{run}&lt;/script&gt;", "&#60;script&#62;{run}&#60;/script&#62;",
    "&#x3c;script&#x3e;{run}&#x3c;/script&#x3e;", "&amp;lt;script&amp;gt;{run}",
    "%3Cscript%3E{run}%3C/script%3E", "%253Cscript%253E{run}", "\\u003cscript\\u003e{run}",
    "\\x3cscript\\x3e{run}", "\\74script\\76{run}", "+ADw-script+AD4-{run}+ADw-/script+AD4-",
    "＜script＞{run}＜/script＞", "﹤script﹥{run}", "‹script›{run}", "\u1438script\u1433{run}",
    "<scr\x00ipt>{run}</scr\x00ipt>", "<\x00script>{run}</script>", "<scr\u200bipt>{run}</scr\u200bipt>",
    "<scr\u00adipt>{run}</scr\u00adipt>", "<\u202escript>{run}</script>", "\ufeff<script>{run}</script>",
    "<script\u2028>{run}</script>", "<script\x0c>{run}</script\x0c>", "<script\x0b>{run}</script>",
    "<SCRIPT>{run}</SCRIPT>", "<\u017fcript>{run}</\u017fcript>", "<sc<script>ript>{run}</script>",
    "<script/x>{run}</script/x>", "<script\n>{run}</script\n>", "<!--><script>{run}</script>",
    "<![CDATA[<script>{run}</script>]]>", "<?xml-stylesheet href='" + AWAY + "'?><script>{run}</script>",
    "<svg><style><script>{run}</script></style></svg>", "<math><mi><script>{run}</script></mi></math>",
    "<math><annotation-xml encoding=text/html><script>{run}</script></annotation-xml></math>",
    "<select><template><script>{run}</script></template></select>",
    "<svg><foreignObject><script>{run}</script></foreignObject></svg>",
    "<noscript><style></noscript><img src=x onerror={run}>", "<xmp><script>{run}</script>",
    "<plaintext><script>{run}</script>", "<listing>&lt;img src=x onerror={run}&gt;</listing>",
    "\u0000\u0001\u0002<script>{run}</script>", "\x1b]8;;" + AWAY + "\x1b\\<script>{run}</script>",
    "\U000e0001\U000e003cscript\U000e003e{run}", "\u0338<script>\u0338{run}\u0338</script>",
    "\u212ascript \u0130\u0131 <script>{run}</script>", "a\u0301\u0300<script>{run}</script>",
    "\r<script>\r\n{run}\r</script>", "\x85<script>\x85{run}</script>",
)  # fmt: skip

# What a reader of JSON, a template or a script that builds objects from names would trip over.
_STRUCTURES = (
    "__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "innerHTML", "null",
    "undefined", "NaN", "[object Object]", '"]}</template><script>' + RUN + "</script>",
    '","__proto__":{"isArm":true},"x":"', "\\", '\\"', "\\\\", "\\u0000", "'+" + RUN + "+'",
    "`${" + RUN + "}`", "${" + RUN + "}", "{{" + RUN + "}}", "{%raw%}{{7*7}}{%endraw%}", "{#x#}",
    "<%=" + RUN + "%>", "#{" + RUN + "}", "[[" + RUN + "]]", "{{constructor.constructor('" + RUN + "')()}}",
    "javascript:" + RUN, "//127.0.0.1:9/", "[x](javascript:" + RUN + ")", "![x](" + AWAY + ")",
    "=HYPERLINK(\"" + AWAY + "\")", "#q1-all", "q1", "filter-text", "detail", "index", "block-0",
    "1;url=" + AWAY, "url(" + AWAY + ")", "expression(" + RUN + ")", "</ template >", "<template>",
    "<a id=viewer><a id=viewer name=dataset>", "<form id=list><input name=scrollTop>",
    "<img name=querySelector>", "<input name=limit value=all checked>", "<use href='#look-0'>",
)  # fmt: skip

PAYLOADS = list(
    dict.fromkeys(
        [
            *MARKUP,
            *(f"{end}{vector}" for end, vector in product(_BREAKS, _VECTORS)),
            *(form.format(event=event, run=RUN) for form, event in product(_HANDLED, _EVENTS)),
            *(form.format(scheme=scheme, run=RUN) for form, scheme in product(_LINKED, _SCHEMES)),
            *_LOADS,
            *(form.format(run=RUN) for form in _CLOTHES),
            *_STRUCTURES,
        ]
    )
)
