"use strict";
// What a mark stands for, shown at the pointer or after a tap; without this the browser shows titles itself.
{
  const tip = document.getElementById("tip");
  const texts = new WeakMap();
  let shown = null;
  const textOf = (mark) => {
    const title = mark.querySelector(":scope > title");
    if (title) {
      texts.set(mark, title.textContent.trim());
      title.remove();
      mark.setAttribute("aria-label", texts.get(mark));
    }
    return texts.get(mark);
  };
  const hide = () => {
    if (shown) shown.classList.remove("hot");
    shown = null;
    tip.hidden = true;
  };
  const show = (event) => {
    let mark = event.target instanceof SVGElement ? event.target : null;
    while (mark && !textOf(mark)) mark = mark.parentElement instanceof SVGElement ? mark.parentElement : null;
    if (!mark) return hide();
    if (mark !== shown) {
      hide();
      shown = mark;
      if (mark.tagName !== "svg") mark.classList.add("hot");
      tip.textContent = texts.get(mark);
      tip.hidden = false;
    }
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 12, document.documentElement.clientWidth - width - 6);
    const top = event.clientY - height - 12;
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${top < 6 ? event.clientY + 18 : top}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("pointerleave", hide);
}
