"""The words the synthetic world is made of; every one is a single token of the tiny tokenizer.

Every name and every value is two words, one from the first and one from the second list of its
kind. Training and evaluation share the words and never a pair (see ``world.is_evaluation_name``),
so an evaluation answer is a string that the model has never seen.
"""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "person": (
        (
            "Ada Alma Anton Arlo Astrid Bela Bruno Carla Cedric Clara Conrad Dalia Dario Edda "
            "Elena Elmar Emil Esther Fabian Felix Flora Freya Gideon Greta Hanna Hector Henrik "
            "Hugo Ida Igor Ingrid Irma Jasper Jonas Julia Karim Katja Lars Leona Linus Lotte "
            "Magnus Marta Milo Nadia Nora Oskar Otto Paula Petra Quentin Rafael Regina Rosa "
            "Rufus Selma Silas Sonja Tamara Tobias Ulrich Vera Viktor Wanda"
        ),
        (
            "Abbott Adler Ashdown Bakker Barlow Becker Bellamy Berger Bishop Brandt Calder "
            "Carver Castell Corbin Dalton Decker Drummond Eklund Ellery Faulkner Fenwick "
            "Fischer Galloway Garrick Hadley Halloran Harker Hartwell Holm Ivers Jarvis Kepler "
            "Kessler Lambert Langley Larkin Lindqvist Lombard Marlowe Mercer Merrick Novak "
            "Oakley Orwell Paxton Pemberton Quill Radcliffe Rasmus Redfern Sandoval Sinclair "
            "Sorensen Sterling Tanner Thorne Underhill Valdez Vance Wexler Whitlock Winslow "
            "Yates Zeller"
        ),
    ),
    "place": (
        (
            "Aldmoor Arven Belmar Bristol Caldor Carrick Corvin Dunmore Elstow Fairhaven Galen "
            "Glenrock Halden Harwick Ilmar Kelder Kirkwall Langdale Lorien Lunden Maltby Marrow "
            "Melford Norden Oldham Orrin Penrith Quarley Ravenna Redmoor Rosslyn Sable Selkirk "
            "Severn Stanmore Tarn Thornby Torval Ulster Velmora Waverly Westmark Whitby Windale "
            "Wolden Yarrow Zelmont Zorin"
        ),
        (
            "Bay Bridge Creek Crossing Falls Fields Ford Gate Grove Heights Hollow Junction "
            "Meadows Mills Point Springs"
        ),
    ),
    "company": (
        (
            "Acorn Anvil Apex Arcadia Beacon Brightwell Cascade Cobalt Compass Crescent Delphi "
            "Dynamo Eclipse Ember Everest Falcon Fortuna Garnet Granite Halcyon Helix Horizon "
            "Ibis Juniper Keystone Lantern Lumen Matrix Meridian Nimbus Northstar Oberon Orchid "
            "Pinnacle Polaris Quantum Quasar Raven Redwood Sapphire Solstice Summit Tempest "
            "Titan Vertex Vulcan Willow Zenith"
        ),
        (
            "Airlines Bank Brewing Chemicals Dairies Energy Foods Foundry Freight Insurance "
            "Labs Motors Optics Press Shipping Textiles"
        ),
    ),
    "work": (
        (
            "Amber Ancient Bitter Broken Burning Crimson Distant Drowned Empty Endless Fallen "
            "Fearless Forgotten Frozen Gentle Gilded Golden Hidden Hollow Iron Ivory Lonely "
            "Lost Midnight Narrow Pale Patient Quiet Restless Rising Savage Scarlet Secret "
            "Shallow Silent Silver Sleeping Stolen Sunken Tender Twisted Velvet Wandering "
            "Whispering Wicked Winter Wounded Yellow"
        ),
        (
            "Archive Arrow Bell Candle Castle Clock Cradle Crown Dagger Diary Door Engine "
            "Feather Fiddle Flame Forest Garden Ghost Harvest Island Journey Key Ladder Letter "
            "Lighthouse Mask Mirror Mountain Oath Orchard Painter Palace Promise Puzzle River "
            "Road Sailor Shadow Song Staircase Stranger Theatre Throne Tower Voyage Wager "
            "Window Witness"
        ),
    ),
    "occupation": (
        (
            "assistant chief civil clinical court criminal digital field forensic junior marine "
            "master medical military naval night private public railway royal rural senior "
            "social travelling"
        ),
        (
            "accountant architect botanist chemist cook dentist editor engineer geologist "
            "historian librarian mechanic nurse photographer surgeon translator"
        ),
    ),
    "product": (
        (
            "bamboo brass bronze canvas ceramic copper cotton crystal electric folding glass "
            "leather linen marble paper pocket rubber solar steel stone velvet walnut wireless "
            "wooden"
        ),
        (
            "baskets bicycles blankets boots bottles cameras chairs clocks curtains drums "
            "gloves guitars kettles lamps mirrors needles ovens pencils pumps radios saddles "
            "scissors tents umbrellas"
        ),
    ),
    "genre": (
        (
            "absurd allegorical comic courtly cosmic domestic epic experimental gothic heroic "
            "historical lyrical modern musical pastoral political religious romantic satirical "
            "tragic"
        ),
        (
            "adventure ballad comedy drama epic fable fantasy farce memoir mystery novel opera "
            "parable play romance thriller"
        ),
    ),
    "region": (
        (
            "Central Coastal Eastern Greater Inner Little Lower New Northern Old Outer Southern "
            "Upper Western"
        ),
        (
            "Ardenia Boravia Calmeria Drovia Estovia Ferland Gravonia Helmark Istria Jorvia "
            "Kalmaria Lavonia Morovia Nerland Ostria Pelonia Quenland Rovania Sorvia Tavonia "
            "Urland Varnia Wendia Zemland"
        ),
    ),
    "festival": (
        (
            "Autumn Barley Cherry Copperlight Dragon Firefly Honey Kite Lilac Maple Moonlight "
            "Mulberry Olive Pumpkin Saffron Snowdrop Spring Starling Summer Tulip"
        ),
        (
            "Ball Carnival Cup Dance Fair Feast Games Market Pageant Parade Races Regatta Week "
            "Supper"
        ),
    ),
    "landmark": (
        (
            "Bishops Blacksmith Captains Cathedral Fountain Founders Friars Kings Liberty "
            "Market Miners Museum Pilgrims Queens Saints Shepherds"
        ),
        (
            "Arch Basilica Cloister Column Dome Fort Hall Manor Monument Observatory Pier "
            "Rotunda Square Temple Terrace Viaduct"
        ),
    ),
}
"""Kind -> (first words, second words), each a string of words separated by spaces."""
