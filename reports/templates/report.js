(() => {
  "use strict";
  const filter = document.getElementById("filter");
  const text = document.getElementById("filter-text");
  const over = document.getElementById("filter-over");
  const count = document.getElementById("filter-count");
  const nothing = document.getElementById("nothing");
  const questions = [...document.querySelectorAll(".question")].map((element) => ({
    element,
    text: null,
    asked: [...element.querySelectorAll(".asked")],
  }));

  function apply() {
    const wanted = text.value.trim().toLowerCase();
    const limit = filter.querySelector("input[name=limit]:checked").value;
    let shown = 0;
    for (const question of questions) {
      let open = 0;
      for (const asked of question.asked) {
        asked.hidden = (limit && asked.dataset.limit !== limit) || (over.checked && !("over" in asked.dataset));
        open += !asked.hidden;
      }
      if (open && wanted) {
        question.text ??= question.element.textContent.toLowerCase();
        open = question.text.includes(wanted);
      }
      question.element.hidden = !open;
      shown += Boolean(open);
    }
    count.textContent = `${shown} of ${questions.length} prompts`;
    nothing.hidden = shown > 0;
  }

  if (questions.length) {
    filter.hidden = false;
    filter.addEventListener("input", apply);
    apply();
  }
})();
