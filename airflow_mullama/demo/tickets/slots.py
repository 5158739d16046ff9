"""The words that the sentences of the demo's tickets have in common: slot values, names and emoji."""

from __future__ import annotations


def _words(alternatives: str) -> tuple[str, ...]:
    return tuple(alternatives.split("|"))


_FEATURES = (
    "(a |)dark mode", "(an |)offline mode", "a (calendar|weekly|timeline) view", "export to (Excel|CSV|PDF)",
    "keyboard shortcuts", "(a |)(Slack|Teams|Zapier|Outlook) integration", "bulk (editing|upload|actions)",
    "(more|other|additional) languages", "support for (Linux|Android tablets|Apple Watch|a smart TV)",
    "(custom|configurable|personal) (fields|colours|themes|labels)", "an undo button", "voice (control|input|commands)",
    "(a |)(drag and drop|split screen|full screen) (editor|view|option)", "larger (text|fonts|icons)",
    "(saved|shared) (filters|searches|views)", "a (desktop|mobile|smart watch) (app|version|widget)",
    "reminders (by mail|on the phone|)", "(folders|tags|favourites) for (projects|notes|files)",
    "automatic (translation|sorting|summaries)", "a dashboard (for|with) (statistics|team reports)",
    "(comments|mentions|reactions) (for teams|)", "(a |)wish list sharing", "a public API",
)  # fmt: skip

SLOTS: dict[str, tuple[str, ...]] = {
    "product": _words(
        "headphones|coffee machine|smart lamp|backpack|office chair|running shoes|tablet|keyboard|fitness watch|"
        "camera|rain jacket|vacuum cleaner|monitor|speaker|bike helmet|e-reader|router|toaster|printer|desk|suitcase|"
        "drill|phone case|kettle|mattress"
    ),
    "part": _words(
        "app|dashboard|report page|calendar|editor|search|mobile app|settings page|inbox|project list|chart view|"
        "file manager|home screen|contact list|web shop|chat window"
    ),
    "device": _words(
        "iPhone|Android phone|laptop|iPad|MacBook|Windows PC|tablet|Chromebook|Galaxy phone|work computer|"
        "Linux machine|smart TV"
    ),
    "plan": _words("basic|pro|premium|team|business|starter|family|plus|enterprise|student"),
    "city": _words(
        "Berlin|Madrid|Chicago|Leeds|Toronto|Lyon|Vienna|Oslo|Porto|Austin|Dublin|Prague|Sydney|Boston|Milan|Warsaw|"
        "Helsinki|Denver|Ghent|Zurich"
    ),
    "month": _words("January|February|March|April|May|June|July|August|September|October|November|December"),
    "feature": _FEATURES,
    "charged": _words("charged|billed|debited|invoiced"),
    "invoice": _words(
        "invoice|bill|receipt|statement|monthly bill|tax invoice|payment|card statement|billing statement"
    ),
    "card": _words("card|credit card|debit card|bank account|Visa card|PayPal account"),
    "parcel": _words("parcel|package|order|shipment|delivery|box|goods|packet"),
    "courier": _words("courier|driver|postman|carrier|delivery man|delivery service|mailman|delivery company"),
    "login": _words("log in|sign in|login|log on|sign on|get in"),
    "credential": _words(
        "password|username|verification code|two-factor code|PIN|authenticator code|sign-in link|reset link|"
        "security code|login|activation link|2FA code"
    ),
    "account": _words("account|login|profile|user account|workspace account"),
    "thing": _words("{product}|{part}|app|website|software|sync|API|server|firmware|plugin|program|{device}"),
    "breaks": _words(
        "crashes|freezes|hangs|fails|stops working|closes by itself|shows an error|stays blank|does not load|"
        "does not respond|is broken|is very slow|gives error {code}|times out|restarts|lags|does not start|"
        "keeps crashing|loses the connection|loses data|won't open|does not work|is offline|flickers"
    ),
    "money": _words("refund|money back|reimbursement|money|repayment|money returned"),
    "repay": _words("refund|reimburse|pay back|repay|compensate|credit"),
    "cancel": _words("cancel|end|terminate|stop|quit|discontinue|close|unsubscribe from"),
    "subscription": _words(
        "subscription|membership|contract|{plan} plan|agreement|{plan} subscription|yearly plan|trial|auto-renewal"
    ),
    "add": _words("add|support|offer|build|introduce|implement|include|provide|develop"),
    "we": _words("I|We"),
    "we_are": _words("I am|We are|I'm|We're"),
    "us": _words("me|us"),
    "you": _words("you|your team|your company|your people|your service|your shop|your support|this company|your staff"),
    "service": _words(
        "service|product|support|team|app|experience|shop|quality|work|staff|company|website|customer service|help"
    ),
    "very": _words("very|really|so|extremely|absolutely|totally|truly|completely|quite|incredibly"),
    "good": _words(
        "great|excellent|wonderful|fantastic|amazing|superb|brilliant|lovely|awesome|outstanding|perfect|terrific|"
        "splendid|impressive|nice|good|delightful|incredible|first class|stellar|helpful|friendly|kind|beautiful|"
        "pleasant|the best"
    ),
    "glad": _words(
        "happy|glad|pleased|satisfied|delighted|thrilled|grateful|impressed|thankful|excited|overjoyed|amazed|in love"
    ),
    "bad": _words(
        "terrible|awful|horrible|bad|poor|lousy|dreadful|useless|miserable|pathetic|disgraceful|appalling|"
        "disappointing|sloppy|unacceptable|ridiculous|shameful|hopeless|unprofessional|outrageous|atrocious|"
        "incompetent|a joke|a disaster|the worst|a mess"
    ),
    "mad": _words(
        "angry|furious|annoyed|frustrated|upset|disappointed|unhappy|irritated|fed up|livid|dissatisfied|disgusted|"
        "appalled|exasperated|mad|shocked|sick of it|let down"
    ),
    "now": _words(
        "today|now|right now|immediately|right away|asap|as soon as possible|at once|this minute|tonight|by tonight|"
        "within the hour|before tomorrow|this morning|instantly|straight away|urgently|without delay|"
        "in the next {count} minutes|quickly"
    ),
    "deadline": _words(
        "in {count} hours|tonight|today|tomorrow|tomorrow morning|at noon|in an hour|this afternoon|"
        "in {count} minutes|at the end of the day"
    ),
    "later": _words(
        "next month|in a few weeks|some day|next quarter|in the coming weeks|later this year|whenever you can|"
        "at some point|in a while|after the holidays|when you have time|when it suits you|at your convenience|"
        "in a month or two|next year|sometime|whenever you like|when you find a moment|when things are quiet"
    ),
    "no_hurry": _words(
        "no rush|no hurry|no pressure|no stress|take your time|no deadline|no need to hurry|no need to rush|"
        "it can wait|all in good time|there is no hurry|there is no rush|it is not urgent|"
        "at your leisure|nothing urgent|whenever|I am patient|we are patient|there is plenty of time|we have lots of time|"
        "don't worry about the timing|don't stress|put it on the back burner|no need to answer soon|I can wait"
    ),
    "solved": _words(
        "fixed|solved|done|handled|sorted out|resolved|taken care of|answered|dealt with|cleared up|finished|settled"
    ),
    "matter": _words("this|it|the matter|this issue|my case|this request|this ticket|this problem|my question"),
    "pressing": _words("urgent|pressing|time critical|critical|important|an emergency|high priority|time sensitive"),
    "topic": _words(
        "a job|an internship|a partnership|a sponsorship|a donation|an interview|a visit to your office|"
        "a guided tour|your opening hours|your history|your founder|your newsletter|the press department|"
        "the trade fair|a school project|a student discount|gift cards|your headquarters|an article about you|"
        "a charity event|your recycling policy|parking at your shop|your advert|lost property|an application|"
        "merchandise|your logo"
    ),
    "praise": _words(
        "thumbs up|well done|bravo|hats off|five stars|kudos|top marks|I love it|we love it|keep it up|"
        "keep up the good work|big thanks|many thanks for everything|congratulations|great job|excellent work|"
        "you made my day|you rock|what a team|highly recommended|two thumbs up|ten out of ten|a pleasure as always|"
        "best ever|I am a fan|couldn't be better"
    ),
    "curse": _words(
        "shame on you|never again|zero stars|one star|I am done with you|what a joke|thumbs down|I hate it|"
        "not acceptable|this is unacceptable|a waste of time|a waste of money|worst ever|I want to complain|"
        "you let me down|I feel cheated|ripped off|nobody cares|I have lost all trust|I am fed up|what a mess|"
        "what a disgrace|this is a nightmare|zero out of ten|stay away from this shop|I had enough|not good enough|"
        "couldn't be worse"
    ),
    "like": _words("love|like|enjoy|adore|admire|appreciate|really like|really love|keep praising|am happy with|trust"),
    "hate": _words(
        "hate|dislike|despise|detest|can't stand|don't trust|really hate|regret|keep complaining about|am sick of|"
        "am unhappy with"
    ),
    "minor": _words(
        "a small thing|a minor point|not important|unimportant|low priority|a detail|a side issue|nothing serious|"
        "not a big deal|not urgent|optional|nice to have"
    ),
    "alarm": _words(
        "this is urgent|it is an emergency|time is running out|the clock is ticking|every minute counts|I can't wait|"
        "we are losing money|our business is down|hurry up|please hurry|it is urgent|we are desperate|"
        "this can't wait|red alert|top priority|high priority|the deadline is {deadline}|it is almost too late|SOS|"
        "drop everything|urgent|help needed {now}|we are stuck|we are blocked|no time to lose|act fast"
    ),
}
"""Slot values that are lists; `generate` makes up amounts, dates, order numbers, counts and error codes itself."""

NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Lena", "Mateo",
    "Nadia", "Oscar", "Priya", "Quentin", "Rosa", "Sven", "Tara", "Umar", "Vera", "Will", "Yuki", "Zoe", "Mr Baker",
    "Mrs Lopez", "Dr Stein", "M. Rossi", "J. Novak",
)  # fmt: skip

EMOJI: dict[str, tuple[str, ...]] = {
    "positive": ("😊", "👍", "❤️", "🎉", "😍", ":)", ":-)", "🙌"),
    "neutral": ("🙏", "📦", "💻", "🤔", "📱", "👋"),
    "negative": ("😡", "😠", "👎", "😞", ":(", ":-(", "🤬", "😤"),
}
