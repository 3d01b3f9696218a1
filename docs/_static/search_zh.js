/* Search in Chinese. Sphinx 9 names a stemmer that it does not define, and cannot divide a query
 * such as 空间注意力 into words: here it is divided into the longest words that the index has. */

var ChineseStemmer = function () {
  const english = new EnglishStemmer();
  this.stemWord = (word) => english.stemWord(word);
};

var splitQuery = function (query) {
  const terms = Search._index ? { ...Search._index.terms, ...Search._index.titleterms } : {};
  const found = [];
  for (const run of query.split(/[^\p{Letter}\p{Number}_]+/gu)) {
    for (const part of run.match(/[\u3400-\u9fff]+|[^\u3400-\u9fff]+/g) || []) {
      found.push(...(/[\u3400-\u9fff]/.test(part) ? words(part, terms) : [part]));
    }
  }
  return found;
};

function words(text, terms) {
  const found = [];
  let unknown = "";
  for (let start = 0; start < text.length; ) {
    let length = Math.min(8, text.length - start);
    while (length > 1 && !Object.hasOwn(terms, text.slice(start, start + length))) length--;
    if (length > 1) {
      found.push(text.slice(start, start + length));
    } else {
      unknown += text[start];
    }
    start += length;
  }
  return found.length ? found : [unknown];
}

/* Pages whose title holds the whole query come first; the rest are Sphinx' own numbers. */
var Scorer = {
  score: ([, title, , , score]) => {
    const query = (new URLSearchParams(window.location.search).get("q") || "").trim().toLowerCase();
    return score + (query && title.toLowerCase().includes(query) ? 50 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
