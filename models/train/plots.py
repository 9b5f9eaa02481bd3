"""plots.py - the plots of the stories, in the notation of grammar.py's expand().

"text" follows an opening that introduces the hero and the place. "topics" are subjects of a request
for this plot. "variants" are sets of slots; a story uses one of them.
"""

PLOTS = (
    {  # something is lost
        "topics": ("{akind} who lost {athing}", "{akind} who lost {his} {thing}", "a lost {thing}",
                   "{acolour} {thing}", "{athing}"),
        "text": (
            "{hero} had {acolour} {thing}, and {he} [loved it very much|took it everywhere|played "
            "with it every day].",
            "One [morning|day|evening], the {thing} was gone!",
            "{hero} looked {here}, but it was not there. {He} looked {there}, but it was not "
            "there[ either|].",
            "[{He} began to cry.|{He} felt very sad.|{He} did not know what to do.]",
            "Then {friend.whole} named {friend} came by.",
            "\"[Why are you so sad|What is wrong|Why do you cry]?\" asked {friend}.",
            "\"I [lost|cannot find] my {colour} {thing},\" said {hero}.",
            "\"[Do not worry|Do not cry],\" said {friend}. \"[I will help you|We will find it "
            "together|Two can look better than one].\"",
            "They looked [all day|everywhere|for a long time], and at last {friend} [found|saw] "
            "the {thing} {found}.",
            "\"[Thank you|Oh, thank you], {friend}!\" said {hero}. [{He} was so happy that {he} "
            "danced.|{He} gave {friend.him} a big hug.|{He} smiled again.]",
            "[From that day on, {hero} and {friend} were best friends.|After that, they played "
            "with the {thing} together.|And {hero} never lost {his} {thing} again.]",
        ),
    },
    {  # sharing
        "topics": ("sharing", "sharing {afood}", "{akind} who does not share", "{afood}",
                   "{akind} who learns to share"),
        "text": (
            "One day, {hero} [found|got|made] {afood}. It was [big and sweet|the best {food} in "
            "the {land}|so big that {he} could hardly carry it].",
            "{friend}, {friend.whole}, came by and was [hungry|very hungry].",
            "\"May I have [a piece|a bite|some of it]?\" asked {friend}.",
            "\"No,\" said {hero}. \"[It is mine|It is all mine|I want it for myself].\"",
            "{friend} [went away sadly|walked away with {friend.his} head down|said nothing and "
            "went home].",
            "{hero} sat down {here} to eat, but {he} was all alone. [The {food} did not taste "
            "good|It was too quiet|{He} felt sad and lonely].",
            "So {he} [ran after|went to find] {friend}.",
            "\"I am sorry,\" {he} said. \"[Let us share|We will share it|Half of it is yours].\"",
            "They sat {there} and ate the {food} together, and it tasted [wonderful|much better|"
            "sweeter than before].",
            "[{hero} learned that sharing makes everything better.|And from then on, {hero} always "
            "shared with {his} friends.|\"A friend is better than {afood},\" said {hero}.]",
        ),
    },
    {  # fear
        "topics": ("being brave", "{akind} who is afraid of {fear}", "being afraid",
                   "{akind} who was afraid of {fear}", "a brave {kind}"),
        "variants": (
            {"fear": "the dark", "try": "walk through the dark cave", "where": "in the dark cave"},
            {"fear": "the dark", "try": "go into the dark forest", "where": "in the dark forest"},
            {"fear": "deep water", "try": "swim to the rock", "where": "in the deep water"},
            {"fear": "deep water", "try": "cross the river", "where": "in the river"},
            {"fear": "thunder", "try": "go out into the storm", "where": "out in the storm"},
            {"fear": "high places", "try": "climb the tall tree", "where": "up in the tall tree"},
            {"fear": "high places", "try": "climb up to the roof", "where": "up on the roof"},
        ),
        "text": (
            "{hero} was afraid of {fear}. [The others laughed at {him}.|{He} was ashamed of it.|"
            "{He} told nobody.]",
            "{His} best friend was {friend}, {friend.whole}.",
            "One [night|day|evening], {hero} heard a cry. \"Help! Help!\" It was {friend}, "
            "{where}!",
            "{hero} [was shaking|was so afraid|felt {his} heart beat fast]. \"I cannot {try},\" "
            "{he} thought. \"But {friend} needs me.\"",
            "{He} took a deep breath. Then {he} began to {try}, one step at a time.",
            "\"[I am here|Hold on to me|Do not be afraid], {friend},\" said {hero}, and {he} "
            "brought {friend.him} home.",
            "\"You [are so brave|saved me]!\" said {friend}. \"[Were you not afraid|Are you not "
            "afraid of {fear}]?\"",
            "\"[I was very afraid|Yes, I was afraid],\" said {hero}. \"But [I wanted to help you "
            "more|you are my friend].\"",
            "[From that day on, {hero} was not so afraid of {fear}.|That is what it means to be "
            "brave.|And nobody laughed at {hero} again.]",
        ),
    },
    {  # the storm
        "topics": ("a storm", "a house in the storm", "a big storm", "{akind} who builds a house",
                   "helping a friend"),
        "text": (
            "{His} friend {friend}, {friend.whole}, lived in a [small|little|tiny] house {here}.",
            "One night, a [big|great|terrible] storm came. The wind [blew and blew|roared|was very "
            "strong], and the rain fell [all night|for hours].",
            "In the morning, the house of {friend} was [broken|gone|in pieces].",
            "\"[Where will I sleep now|What will I do]?\" [cried|said] {friend}.",
            "\"[You can live with me|Stay with me] [until it is done|for now],\" said {hero}. "
            "\"And we will build a new house.\"",
            "They carried [wood and stones|stones and straw|big pieces of wood] [all day|for many "
            "days]. {hero} made the walls, and {friend} made the roof.",
            "At last the new house was ready. It was [stronger|bigger|better] than the old one, "
            "and it had {acolour} door.",
            "\"[How can I thank you|What can I give you], {hero}?\" asked {friend}.",
            "\"[Just invite me for {fruit} pie|You are my friend, that is enough|You would do the "
            "same for me],\" said {hero}.",
            "[That night they sat by the fire and sang.|And when the next storm came, the house "
            "stood firm.|And they lived next to each other for many years.]",
        ),
    },
    {  # the truth
        "topics": ("telling the truth", "{akind} who broke {athing}", "a broken {thing}",
                   "{akind} who tells the truth", "saying sorry"),
        "things": "kite drum lantern boat cup basket flute wagon bell box mirror umbrella bucket "
                  "clock".split(),
        "text": (
            "{friend}, {friend.whole}, had {acolour} {thing}. [It was very old.|It was a gift from "
            "{friend.his} mother.|{friend.He} loved it very much.]",
            "One day, {hero} [played with|borrowed|wanted to see] the {thing}. But it fell down "
            "and broke!",
            "{hero} was [afraid|frightened]. {He} hid the pieces {here} and [ran home|ran away|"
            "said nothing].",
            "That night {he} could not sleep. [{He} thought of {friend} all the time.|{His} heart "
            "was heavy.|\"I did a bad thing,\" {he} thought.]",
            "In the morning, {he} went to {friend}. \"I broke your {thing},\" {he} said. \"I am so "
            "sorry.\"",
            "{friend} was [quiet|silent] for a moment. Then {friend.he} [smiled|nodded].",
            "\"[I was sad about the {thing}|I knew something was wrong],\" said {friend}, \"but "
            "[I am glad that you told me the truth|the truth is worth more than {athing}].\"",
            "Together they [mended|repaired] the {thing} with [glue|string|a little paint]. "
            "[It looked almost new.|It was even more beautiful than before.|It had a crack, but "
            "they liked it.]",
            "[And {hero} felt light and happy again.|{hero} never hid anything from {friend} again."
            "|\"The truth is always best,\" said {hero}.]",
        ),
    },
    {  # a wish, and practice
        "topics": ("{akind} who wanted to {wish}", "{akind} who wants to {wish}",
                   "{akind} who learns to {wish}", "learning to {wish}"),
        "variants": (
            {"wish": "sing", "fail": "only a croak came out", "done": "sang a beautiful song"},
            {"wish": "dance", "fail": "{he} fell over {his} own feet",
             "done": "danced around and around"},
            {"wish": "swim", "fail": "{he} swallowed a lot of water",
             "done": "swam across the water"},
            {"wish": "paint", "fail": "the picture was only a brown spot",
             "done": "painted a picture of the sun"},
            {"wish": "sail", "fail": "the boat went around in a circle",
             "done": "sailed across the bay"},
            {"wish": "fly", "fail": "{he} fell into a bush",
             "done": "flew high above the trees with wings of paper"},
            {"wish": "read", "fail": "the letters looked like ants",
             "done": "read a whole story aloud"},
            {"wish": "play the flute", "fail": "it made a terrible noise",
             "done": "played a sweet tune"},
            {"wish": "bake", "fail": "the bread was black and hard",
             "done": "baked a cake for everyone"},
        ),
        "text": (
            "More than anything, {hero} wanted to {wish}.",
            "[One day|One morning], {he} tried it for the first time, but {fail}. [The others "
            "laughed.|\"I will never learn it,\" {he} said.|{He} was very unhappy.]",
            "{friend}, {friend.whole}, saw it. \"[Do not give up|Try again],\" said {friend}. "
            "\"[Nobody can do it the first time|Everything is hard at first|I will show you "
            "how].\"",
            "So {hero} went to {friend} every [day|morning|evening], and they practised {here}.",
            "[Some days were hard.|It was slow work.|{He} made many mistakes.] But [little by "
            "little|day by day|week by week], {he} got better.",
            "[In the spring|In the summer|After a long time|At last], there was a big feast "
            "{land}. Everybody was there.",
            "{hero} [stood up|was nervous, but {he} smiled]. Then {he} {done}!",
            "[Everybody cheered.|Everybody clapped.|Nobody laughed now.] \"How did you learn to "
            "{wish}?\" they asked.",
            "\"[I tried again and again|I practised every day], and I had a good friend,\" said "
            "{hero}.",
        ),
    },
    {  # a stranger
        "topics": ("a stranger", "{akind} and a stranger", "being kind", "a guest",
                   "a cold winter night"),
        "text": (
            "One cold [winter night|evening|night], somebody knocked at the door. It was a "
            "stranger, {friend.whole} named {friend}.",
            "\"I am [tired|cold] and hungry,\" said {friend}. \"May I [come in|sit by your "
            "fire]?\"",
            "[The neighbours were afraid of strangers.|Nobody else had opened the door.|\"Do not "
            "let {friend.him} in!\" called the neighbours.]",
            "But {hero} [opened the door|smiled]. \"[Come in|Please come in],\" {he} said. \"There "
            "is [warm soup|bread and soup|enough {fruit} pie] for two.\"",
            "{friend} ate and [told stories|told {him} about the wide world|got warm] until late "
            "in the night.",
            "In the morning, the stranger was gone. But on the table there was {acolour} {thing}, "
            "and a letter.",
            "\"[Thank you for your kindness|You were kind to me],\" it said. \"[Whenever you need "
            "a friend, use this {thing}, and I will come|This {thing} will bring you luck].\"",
            "{hero} kept the {thing} [next to {his} bed|near the fire] all {his} life.",
            "[And {his} door was always open for strangers.|And whenever {he} looked at it, {he} "
            "thought of {friend}.|And a year later, {friend} came back, and they became friends.]",
        ),
    },
    {  # a race
        "topics": ("a race", "{akind} who runs a race", "a race between {akind} and {friend.akind}",
                   "winning and losing", "{akind} who wants to win"),
        "text": (
            "{hero} could run very fast. \"[I am the fastest {land}|Nobody is as fast as "
            "me]!\" {he} said [every day|to everyone].",
            "\"Then run a race with me,\" said {friend}, {friend.whole}. \"[From the big tree to "
            "the bridge|From the mill to the gate|Up the road and back].\"",
            "Everybody came to watch. \"One, two, three, go!\"",
            "{hero} was ahead from the start. {He} [laughed|looked back and laughed]. But then "
            "{he} heard a cry.",
            "{friend} had fallen down, and {friend.his} leg hurt.",
            "{hero} [stopped|stood still]. The finish was so near! [{He} could win easily.|One "
            "more minute, and {he} would win.]",
            "But {he} turned around and [went back|ran back]. \"[Lean on me|Take my hand|Come], "
            "{friend},\" {he} said.",
            "Slowly, they walked to the finish together. They both came in first "
            "[that day|at the same time].",
            "\"[Now I know that you are great|You lost the race, but you won a friend|You are "
            "fast, and you are kind],\" said {friend}.",
            "[And {hero} never boasted again.|From that day on, they ran together, just for fun.|"
            "And everybody cheered for both of them.]",
        ),
    },
    {  # treasure
        "topics": ("a treasure", "{akind} who finds a map", "an old map", "a treasure hunt",
                   "{akind} who looks for a treasure"),
        "text": (
            "One day, {hero} found an old map {here}. There was a [red|black] cross on it. \"A "
            "treasure!\" {he} said.",
            "{He} showed it to {his} friend {friend}, {friend.whole}. \"[Let us go and find it|We "
            "must look for it]!\" said {friend}.",
            "They walked [over the hills|through the woods|along the road] for [two|three] days. "
            "[At night they slept under the stars.|When they were hungry, they ate {fruit} pie.|It "
            "rained, but they did not stop.]",
            "Then they came to a [deep|dark] cave, and [an old giant|a grey wolf|a big dragon] "
            "stood in front of it.",
            "\"You may only pass if you know the answer,\" it said. \"What "
            "[gets bigger when you share it|grows when you give it away]?\"",
            "{hero} thought [and thought|for a long time]. Then {he} looked at {friend} and knew "
            "the answer. \"[Joy|Friendship]!\" {he} said.",
            "\"That is right,\" said the guard, and let them in.",
            "In the cave there was a chest full of [gold|books|silver cups|shining stones]. "
            "[{hero} gave half of it to {friend}.|They shared it with everyone at home.|They took "
            "only one {thing} each, and left the rest.]",
            "[\"The best treasure is a good friend,\" said {hero}.|And they told the story of the "
            "map for many years.|Then they went home, tired and happy.]",
        ),
    },
    {  # a garden
        "topics": ("a garden", "{akind} who plants a seed", "waiting", "{akind} with a garden",
                   "a seed"),
        "text": (
            "One spring day, {hero} planted a seed {here}. \"Soon I will have [a big tree|many "
            "flowers|a hundred pumpkins],\" {he} said.",
            "{He} gave it water and sat down to wait. The next day, [nothing had changed|there was "
            "nothing to see].",
            "\"Grow!\" {he} shouted. But the seed did not grow.",
            "{friend}, {friend.whole}, [laughed softly|came by and smiled]. \"[A seed needs "
            "time|You must be patient],\" said {friend}. \"[Give it sun and water, and wait|Sing "
            "to it, and wait].\"",
            "So {hero} waited. {He} gave it water every [morning|evening], [and in the rain {he} "
            "only watched|and {he} sang to it].",
            "One [day|morning], there was a small green leaf! {hero} [danced for joy|called "
            "{friend} at once].",
            "The plant grew and grew. In the summer it was as [high|tall] as [a house|{friend}], "
            "and in the autumn it was full of [sweet fruit|golden fruit|red flowers].",
            "{hero} [gave the first one to {friend}|invited everybody to {his} garden]. \"[Good "
            "things take time|You were right, {friend}],\" {he} said.",
            "[And the next spring, they planted two seeds.|And under the plant they sat together "
            "every evening.|\"And it is best when we share them,\" said {friend}.]",
        ),
    },
    {  # the way home
        "topics": ("the way home", "{akind} who is lost", "{akind} who got lost", "getting lost",
                   "a long way home"),
        "text": (
            "One day, {hero} [followed a butterfly|walked too far|chased a leaf in the wind], and "
            "suddenly {he} did not know the way home.",
            "[It got dark.|The sun went down.|The fog came.] {hero} sat down {here} and [cried|was "
            "afraid].",
            "\"Who is there?\" said a voice. It was {friend}, {friend.whole}, with a "
            "[lantern|candle] in {friend.his} hand.",
            "\"I am lost,\" said {hero}. \"I [want to go home|miss my mother|cannot find my "
            "house].\"",
            "\"What can you see from your [house|window]?\" asked {friend}.",
            "{hero} thought. \"[I can see the mill|I can see a tall tree|I can see a tower], and I "
            "can hear [the bells|the river|the sea].\"",
            "\"I know that place!\" said {friend}. \"[Come with me|Follow me].\" They walked "
            "[hand in hand|side by side] [under the moon|through the night].",
            "At last {hero} saw a light. [{His} mother stood at the door.|It was {his} own house.] "
            "\"[Home|I am home]!\" {he} cried.",
            "{hero} and {his} mother thanked {friend} and gave {friend.him} [warm milk|{fruit} "
            "pie|a place by the fire].",
            "[And from then on, {friend} came to visit every week.|And {hero} never walked so far "
            "alone again.|Now {hero} had a new friend.]",
        ),
    },
    {  # crying wolf
        "topics": ("{akind} who tells lies", "lying", "a lie", "{akind} who played a trick",
                   "a trick"),
        "text": (
            "{hero} [liked to play tricks|was often bored]. One day, {he} shouted, \"Help! "
            "{Danger}!\"",
            "Everybody came running. But there was [nothing|nothing to see], and {hero} laughed "
            "[at them|and laughed].",
            "The next day, {he} did it again. \"Help! {Danger}!\" And again everybody came, and "
            "again {he} laughed.",
            "\"[That is not funny|One day nobody will come], {hero},\" said {friend}, "
            "{friend.whole}.",
            "On the third day, {came}. \"Help! Help!\" shouted {hero}.",
            "But nobody came. \"[It is only a trick|{hero} is lying again],\" they said.",
            "Only {friend} [thought|said], \"What if it is true?\" {friend.He} ran as fast as "
            "{friend.he} could, and saved {hero}.",
            "\"[I am sorry|I will never lie again],\" said {hero}. [{He} was still shaking.|{His} "
            "face was wet with tears.|{He} meant it.]",
            "{He} went from house to house and said sorry to everyone.",
            "[And after that, {hero} always told the truth.|It took a long time, but then they "
            "believed {him} again.|And {friend} stayed {his} friend.]",
        ),
        "variants": (
            {"Danger": "A wolf is coming", "came": "a wolf really came"},
            {"Danger": "A giant is coming", "came": "a giant really came"},
            {"Danger": "The water is coming", "came": "the water really came"},
            {"Danger": "My house is on fire", "came": "{his} house really was on fire"},
        ),
    },
    {  # the birthday
        "topics": ("a birthday", "a party", "{akind} who has a birthday", "a surprise",
                   "the birthday of {akind}"),
        "text": (
            "Today was the birthday of {hero}. {He} woke up early and [put on {his} best hat|ran "
            "to the window|waited for {his} friends].",
            "But nobody came. {He} went to {friend}, {friend.whole}. \"Do you know what day it "
            "is?\" {he} asked.",
            "\"[It is Monday|It is a day like any other|I have no time today],\" said {friend}, "
            "and closed the door.",
            "{hero} went out and sat down {found}. \"[Everybody has forgotten me|Nobody thinks of "
            "me],\" {he} said [sadly|quietly].",
            "In the evening, {he} went home. [The house was dark.|All the windows were dark.] {He} "
            "opened the door, and...",
            "\"Surprise!\" they all shouted. There were [candles|lights] everywhere, and a big "
            "{fruit} cake, and [music|flowers].",
            "\"[We did not forget|How could we forget you]!\" said {friend}, and gave {him} "
            "{acolour} {thing}. \"[I made it myself|This is for you].\"",
            "{hero} [laughed and cried at the same time|hugged them all|was so happy that {he} "
            "could not speak].",
            "[They danced and sang until midnight.|It was the best birthday of all.|\"I have the "
            "best friends in the world,\" {he} said.]",
        ),
    },
    {  # a sick friend
        "topics": ("a sick friend", "{akind} who is sick", "{akind} who helps a friend",
                   "{friend.akind} who is sick", "caring for a friend"),
        "text": (
            "Every day, {hero} played with {his} friend {friend}, {friend.whole}.",
            "But one [morning|day], {friend} did not come. {hero} [ran to {friend.his} house|went "
            "to look for {friend.him}].",
            "{friend} was in bed. \"I am sick,\" {friend.he} said. \"[My head hurts|I am hot and "
            "cold|I cannot get up].\"",
            "\"[I will take care of you|Stay in bed|Do not worry],\" said {hero}. {He} made "
            "[soup|hot tea|a warm drink] and [read a story|sang a song|sat next to the bed].",
            "The next day, {friend} was not better. \"[There is a plant that can help|You need the "
            "blue flower],\" said the old owl. \"It grows {found}.\"",
            "{hero} [went at once|took {his} {thing} and went]. The way was [long and steep|hard "
            "and cold], but {he} [did not stop|thought of {friend} and went on].",
            "[At last|In the evening], {he} found the plant {found} and brought it home.",
            "{friend} drank it [and slept|and closed {friend.his} eyes]. In the morning, "
            "{friend.he} [jumped out of bed|was well again|was healthy and hungry].",
            "\"You [helped|saved] me, {hero},\" said {friend}. \"I will never forget it.\"",
            "[\"Come and play,\" said {hero}, and they ran outside.|And when {hero} was sick, "
            "{friend} made the soup.|And that is what friends are for.]",
        ),
    },
    {  # the moon
        "topics": ("the moon", "the moon", "{akind} who wants the moon", "the night sky",
                   "{akind} and the moon"),
        "text": (
            "Every night, {hero} looked up at the moon. \"I want to [have it|hold it|take it "
            "home],\" {he} said.",
            "{He} climbed [the highest hill|the tallest tree|onto the roof], but the moon was "
            "still too far away. {He} [jumped|reached up with both hands], but it was too high.",
            "\"What are you doing?\" asked {friend}, {friend.whole}.",
            "\"I want to bring the moon home,\" said {hero}. \"It is so [beautiful|bright], and it "
            "looks so alone.\"",
            "{friend} thought [for a while|about it]. \"Bring me a [bowl|bucket] of water,\" "
            "{friend.he} said, \"and put it {here}.\"",
            "{hero} did it. And there, in the water, was the moon! [It shone and danced.|It was "
            "round and bright.|It looked as if it smiled.]",
            "\"Now it is [with you|here], and it is [in the sky for all the others|still in the "
            "sky], too,\" said {friend}.",
            "{hero} was [happy|very happy]. {He} sat next to the water [all night|until {he} fell "
            "asleep].",
            "[\"Good night, moon,\" {he} said. \"Good night, {friend}.\"|And every evening, {he} "
            "put out fresh water for the moon.|\"Some things belong to everyone,\" {he} said.]",
        ),
    },
    {  # a quarrel
        "topics": ("two friends who fight", "a quarrel", "making peace", "{akind} who is angry",
                   "a fight between {akind} and {friend.akind}"),
        "text": (
            "{hero} and {friend}, {friend.whole}, were best friends. But one day, they had a "
            "quarrel about {acolour} {thing}.",
            "\"It is mine,\" said {hero}. \"I saw it first.\"",
            "\"No, it is mine,\" said {friend}. \"I picked it up.\"",
            "They [shouted at each other|pulled at it from both sides], and then they went home "
            "[very angry|without a word].",
            "The next day, {hero} played alone {here}, and {friend} played alone {there}. [It was "
            "no fun at all.|The day was long and grey.]",
            "\"[What is {athing} without a friend?|I miss {friend},]\" thought {hero}.",
            "{He} took the {thing} and went to {friend}. But {friend} was already on {friend.his} "
            "way to {him}!",
            "\"I am sorry,\" they both said at the same time, and they [laughed|had to laugh].",
            "\"[You can have the {thing}|Take it],\" said {hero}. \"No, [you|you can have it],\" "
            "said {friend}. [So they used it together.|In the end, each of them had it for one "
            "day.]",
            "[And they never had a quarrel about {athing} again.|They were best friends again.|"
            "That evening they sat {there} and watched the sun go down.]",
        ),
    },
)
